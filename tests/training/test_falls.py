"""Runs with every switch of a fall at once: what they do, resumed exactly, alike on several processes."""

import os
import signal
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from shear_lit.commands.export import export
from shear_lit.models.source_files import SourceError
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT
from shear_lit.theory.shape import ModelShape
from shear_lit.training import repairing
from shear_lit.training.boundary import Boundary
from shear_lit.training.checkpoints import read_checkpoint
from shear_lit.training.run_checkpoints import latest_checkpoint
from shear_lit.training.signals import SIGNALS
from tests.toy import TARGETS
from tests.training.compare import distances, same_order
from tests.training.forks import run
from tests.training.runs import fit

WHOLE = os.environ.get("SHEAR_LIT_DISTIL") == "all"
"""Whether all ways of a run are tried (make distil), not those alone that have most in them."""
GRADUAL = (
    "--model.pruning.constraint=exact",
    f"--model.pruning.initial_log_alpha={LOG_ALPHA_LIMIT}",
    "--model.pruning.ranking=weight",
    "--model.optimizer.gates_learning_rate=0.3",
    "--model.pruning.exact={start_sharpness: 5, final_sharpness: 20, noise: 1}",
)
ALL = (
    *GRADUAL,
    "--model.pruning.fall.order=ranked",
    "--model.pruning.fall.stages=2",
    "--model.pruning.repair.tokens=400",
    "--model.pruning.draws.noise_until_fraction=0.6",
    "--model.pruning.draws.hard_from_fraction=0.8",
    "--model.pruning.objective=distillation",
    "--model.distillation={}",
    "--trainer.log_every_n_steps=1",
    "--checkpoint.every_steps=1",
)
"""Stages begin at the steps 2 and 4, noise ends before step 8, gates are hard from step 10 of 12 on."""


def test_run_falls_in_stages_repairs_each_and_ends_with_the_gates_of_its_cut(whole, tmp_path):
    folder, (record,) = whole("prune", *ALL)
    after, batches = record["gates_after"], record["batches"]
    start = after[1]
    for step in (2, 3, 4):
        assert all(torch.equal(rows, start[axis]) for axis, rows in after[step].items()), step
    assert any(not torch.equal(rows, start[axis]) for axis, rows in after[12].items())
    hidden = [
        dict(numbers)["size/hidden/target"]
        for _, numbers in record["reports"]
        if "size/hidden/target" in numbers
    ]
    assert hidden[:4] == [32, 30, 30, 24]  # beside six heads, 28 is no hidden size of a stock config
    assert {path.name for path in folder.glob("repair*")} == {"repair-stage=1.md", "repair-stage=2.md"}
    # All three blocks are in the cut of the first stage, and two in that of the second.
    pages = [(folder / f"repair-stage={stage}.md").read_text() for stage in (1, 2)]
    assert ["| model.layers.2." in page for page in pages] == [True, False]
    target = ModelShape(**TARGETS["gqa-tied"])
    for (step, micro), batch in batches.items():
        again = batches[step, (micro + 1) % 4]["gates"]
        alike = all(torch.equal(rows, again[axis]) for axis, rows in batch["gates"].items())
        # Noise moves only what is undecided: it may not show in a step, and never does where there is none.
        assert alike or step < 8
        if step >= 10:
            assert ((batch["gates"]["hidden"] != 0).sum(-1) == target.hidden).all()
    assert any(
        not torch.equal(batches[step, 0]["gates"][axis], batches[step, 1]["gates"][axis])
        for step in range(8)
        for axis in start
    )
    found = [numbers for _, numbers in record["reports"] if "loss/gates" in numbers]
    assert len(found) == 12
    for numbers in found:
        assert numbers["loss/gates"] == pytest.approx(numbers["loss/divergence"], rel=1e-5)
    contents = read_checkpoint(latest_checkpoint(folder))
    assert contents.facts.repair["stages"] == 2
    cut = contents.facts.constraint.standing(contents.log_alpha, target)
    assert {axis: int((rows != 0).sum()) for axis, rows in cut.items()}
    export(latest_checkpoint(folder), str(tmp_path / "out"))
    assert (
        "repair while its sizes fell: at the last of 2 stages" in (tmp_path / "out" / "README.md").read_text()
    )


def sources_are_looked_at(source):
    """A stage is repaired towards the weights that lie in the source's directory, which the run's own have left."""
    usual = repairing.repair

    def looked_at(dense, *rest, **options):
        stored = load_file(source / "model.safetensors")
        assert all(torch.equal(tensor, stored[name]) for name, tensor in dense.named_parameters())
        return usual(dense, *rest, **options)

    repairing.repair = looked_at


@pytest.mark.parametrize("step", [1, 2, 3] if WHOLE else [2])
def test_run_resumed_around_a_stage_ends_as_one_that_was_not(toy, tmp_path, whole, step):
    """The checkpoint of step 2 was taken after the repair of its stage, which is not repeated."""
    folder, (one,) = whole("prune", *ALL)
    middle = folder / "checkpoints" / f"step={step:06d}.ckpt"
    arguments = [*toy.arguments("prune", tmp_path / "run"), *ALL, f"--ckpt_path={middle}"]
    (again,) = run(
        fit, tmp_path / "log", arguments=arguments, sabotage=partial(sources_are_looked_at, toy.source())
    )
    for name, parameter in one["parameters"].items():
        assert torch.equal(parameter, again["parameters"][name]), name
    for name, moment in one["moments"].items():
        assert torch.equal(moment, again["moments"][name]), name
    assert (tmp_path / "run" / "repair-stage=1.md").exists() == (step < 2)
    assert (tmp_path / "run" / "repair-stage=2.md").exists()


def told_to_stop_at_a_stage():
    between = Boundary.between_steps

    def stopped(self):
        if self._step == 2:
            SIGNALS.received = signal.SIGTERM
        between(self)

    Boundary.between_steps = stopped


@pytest.mark.skipif(not WHOLE, reason="two more runs: make distil")
def test_run_stopped_where_a_stage_begins_repairs_it_when_it_goes_on(toy, tmp_path, whole):
    _, (one,) = whole("prune", *ALL)
    arguments = [*toy.arguments("prune", tmp_path / "run"), *ALL, "--ckpt_path=auto"]
    (first,) = run(fit, tmp_path / "first", arguments=arguments, sabotage=told_to_stop_at_a_stage, stops=True)
    assert first["code"] and not list((tmp_path / "run").glob("repair*"))
    (again,) = run(fit, tmp_path / "again", arguments=arguments)
    for name, parameter in one["parameters"].items():
        assert torch.equal(parameter, again["parameters"][name]), name


@pytest.mark.skipif(not WHOLE, reason="runs of several processes: make distil")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("repaired", [True, False])
def test_several_processes_compute_what_one_does(toy, tmp_path, whole, strategy, repaired):
    """Least squares on a few hundred tokens amplify rounding: without repair both are 100 times as close."""
    switches = [flag for flag in ALL if repaired or "repair" not in flag]
    _, one = whole("prune", *switches)
    flags = (f"--trainer.strategy={strategy}", "--trainer.devices=2")
    arguments = [*toy.arguments("prune", tmp_path / "run"), *switches, *flags]
    several = run(fit, tmp_path / "log", processes=2, arguments=arguments)
    assert same_order(one, several)
    found = distances(one, several)
    assert max(found.values()) <= (5e-3 if repaired else 5e-5), found


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--model.pruning.objective=distillation",),
            "model.pruning.objective=distillation has no effect: there is no",
        ),
        (
            (
                "--model.pruning.objective=distillation",
                "--model.distillation.language_weight=0",
            ),
            "weights learn from the teacher alone",
        ),
        (
            (
                "--model.pruning.objective=language",
                "--model.distillation={}",
                "--model.optimizer.gates_learning_rate=0",
            ),
            "gates do not learn",
        ),
        (("--model.pruning.draws.hard_from_fraction=0.3",), "comes before sizes have arrived"),
        (
            (
                "--model.pruning.fall.stages=2",
                "--model.pruning.repair.tokens=400",
                "--model.pruning.sparsity_warmup_steps=12",
            ),
            "the last stage of the fall begins where the run ends",
        ),
    ],
)
def test_switch_that_does_nothing_in_a_run_is_refused_in_one_line(toy, tmp_path, capfd, flags, said):
    from shear_lit import cli

    with pytest.raises(SystemExit):
        cli.main([*toy.arguments("prune", tmp_path / "run"), *GRADUAL, *flags])
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said in lines[0], lines
    assert not (tmp_path / "run").exists()


def test_stage_is_not_repaired_towards_a_source_that_was_changed(toy):
    with pytest.raises(SourceError, match="was changed since the run began"):
        repairing.source_tensors(str(toy.source()), "of another model")
