"""A run that is killed and resumed is the run that was never interrupted, bit for bit."""

import csv
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shear_lit.commands.export import export
from shear_lit.training import boundary, checkpoints, starting
from tests.training.compare import distances, same_order
from tests.training.forks import run, start
from tests.training.runs import fit
from tests.training.stops import same

FSDP2 = ["--trainer.strategy=fsdp2", "--trainer.devices=2"]
EXACT = ("parameters", "moments", "mixtures", "domain_losses", "rates", "data", "gates_after")


def from_step(step, values):
    return {
        key: value for key, value in values.items() if (key[0] if isinstance(key, tuple) else key) >= step
    }


def differences(whole, resumed, step):
    """What differs between a run from ``step`` on and one that was resumed there."""
    record = {**whole, **{name: from_step(step + 1, whole[name]) for name in ("mixtures", "domain_losses")}}
    record["gates_after"] = from_step(step + 1, whole["gates_after"])
    found = [name for name in EXACT if not same(record[name], resumed[name])]
    batches = from_step(step, whole["batches"])
    return found + ([] if same(batches, resumed["batches"]) else ["batches"])


@pytest.mark.parametrize(
    ("stage", "step"),
    [
        ("prune", 4),
        ("pretrain", 6),
        *(pytest.param(*case, marks=pytest.mark.nightly) for case in (("prune", 6), ("pretrain", 4))),
    ],
)
def test_killed_run_goes_on_as_if_it_had_not_been(toy, tmp_path, whole, stage, step):
    """Step 4 is a mixture boundary, whose validation comes before the checkpoint; step 6 is none."""
    arguments = toy.arguments(stage, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / f"step={step:06d}.ckpt"
    killed = start(fit, tmp_path / "killed", arguments=arguments)
    killed.until(checkpoint.exists)
    killed.kill()
    assert not (tmp_path / "run" / "checkpoints" / "step=000012.ckpt").exists(), "killed too late"

    resumed = run(fit, tmp_path / "log", arguments=[*arguments, f"--ckpt_path={checkpoint}"])
    folder, uninterrupted = whole(stage)
    assert differences(uninterrupted[0], resumed[0], step) == []
    ends = [run / "checkpoints" / "step=000012.ckpt" for run in (folder, tmp_path / "run")]
    facts = [checkpoints.read_facts(end) for end in ends]
    assert facts[0] == facts[1] and facts[0].losses
    assert (tmp_path / "run" / "mixture.json").read_bytes() == (folder / "mixture.json").read_bytes()


RANKED = ["--model.pruning.initial_gap=9.2", "--model.pruning.initial_log_alpha=4.605170185988092"]


def resumed_from_a_ranked_cut(toy, tmp_path, whole, sabotage=None):
    """A run whose gates started in order, and one that was resumed from its step 4."""
    folder, (uninterrupted,) = whole("prune", *RANKED)
    checkpoint = folder / "checkpoints" / "step=000004.ckpt"
    arguments = [*toy.arguments("prune", tmp_path / "run"), *RANKED, f"--ckpt_path={checkpoint}"]
    (resumed,) = run(fit, tmp_path / "log", arguments=arguments, sabotage=sabotage)
    return uninterrupted, resumed


def test_gates_that_started_in_order_go_on_where_they_were(toy, tmp_path, whole):
    assert differences(*resumed_from_a_ranked_cut(toy, tmp_path, whole), 4) == []


def ordering_at_every_start():
    begin = boundary.Boundary.between_steps

    def ordered(self):
        if not hasattr(self, "ordered"):
            self.ordered = True
            starting.order_gates(self.module, self.module.pruning)
        begin(self)

    boundary.Boundary.between_steps = ordered


def test_gates_ordered_again_at_a_resume_would_be_seen(toy, tmp_path, whole):
    found = differences(*resumed_from_a_ranked_cut(toy, tmp_path, whole, ordering_at_every_start), 4)
    assert {"gates_after", "parameters"} <= set(found)


def test_metrics_file_goes_on_after_a_resume(toy, tmp_path):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), "--trainer.max_steps=8"]
    run(fit, tmp_path / "first", arguments=arguments)
    file = tmp_path / "run" / "metrics.csv"
    before = file.read_text()
    longer = [*toy.arguments("pretrain", tmp_path / "run"), "--ckpt_path=last"]
    resumed = run(fit, tmp_path / "second", arguments=longer)
    assert min(step for step, _ in resumed[0]["batches"]) == 8
    assert file.read_text().startswith(before) and len(file.read_text()) > len(before)
    assert file.read_text().count("step,name,value") == 1
    with file.open() as rows:
        cost = [float(row["value"]) for row in csv.DictReader(rows) if row["name"] == "run/device_seconds"]
    assert cost == sorted(cost)  # it goes on counting


def test_flags_win_over_the_checkpoint(toy, tmp_path, whole):
    """A checkpoint carries the learning rates of its run; who resumes says what is in force."""
    folder, (before,) = whole("prune")
    arguments = [
        *toy.arguments("prune", tmp_path / "run"),
        f"--ckpt_path={folder / 'checkpoints' / 'step=000006.ckpt'}",
        "--model.optimizer.weights_learning_rate=5e-4",
        "--model.optimizer.betas=[0.8, 0.9]",
    ]
    (after,) = run(fit, tmp_path / "log", arguments=arguments)
    assert before["rates"] == pytest.approx([1e-4, 0.05, 0.05])
    assert after["rates"] == pytest.approx([5e-5, 0.05, 0.05])
    rates = next(numbers for _, numbers in after["reports"] if "learning_rate/weights" in numbers)
    assert rates["learning_rate/weights"] == pytest.approx(rates["learning_rate/gates"] * 1e-3)


def test_each_start_of_a_run_leaves_its_configuration(toy, tmp_path):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), "--trainer.max_steps=4"]
    run(fit, tmp_path / "first", arguments=arguments)
    first = (tmp_path / "run" / "config.yaml").read_bytes()
    flags = ["--trainer.max_steps=8", "--ckpt_path=last"]
    run(fit, tmp_path / "second", arguments=[*arguments, *flags])
    assert (tmp_path / "run" / "config.yaml").read_bytes() == first
    assert "max_steps: 8" in (tmp_path / "run" / "config-2.yaml").read_text()
    assert sorted(path.name for path in (tmp_path / "run").glob("provenance*")) == [
        "provenance-2.json",
        "provenance.json",
    ]


def stop_within_a_save():
    """Hang before the last file of a sharded checkpoint is written: the test kills the run there."""
    save = torch.save

    def hang_at_meta(content, file, *args, **kwargs):
        if str(file).endswith("meta.pt") and "step=000004" in str(file):
            (file.parent.parent / "in the middle").touch()
            time.sleep(600)
        save(content, file, *args, **kwargs)

    torch.save = hang_at_meta


def stop_within_a_single_save():
    save = torch.save

    def hang(content, file, *args, **kwargs):
        save(content, file, *args, **kwargs)
        if "step=000004" in str(file):
            (Path(file).parent / "in the middle").touch()
            time.sleep(600)

    torch.save = hang


@pytest.mark.parametrize(
    ("processes", "flags", "hang", "suffix"),
    [(2, FSDP2, stop_within_a_save, ""), (1, [], stop_within_a_single_save, ".ckpt")],
    ids=["shards", "file"],
)
def test_checkpoint_that_was_cut_short_is_absent(toy, tmp_path, processes, flags, hang, suffix):
    folder = tmp_path / "run" / "checkpoints"
    arguments = [*toy.arguments("prune", tmp_path / "run"), *flags]
    killed = start(fit, tmp_path / "log", processes=processes, arguments=arguments, sabotage=hang)
    killed.until((folder / "in the middle").exists)
    killed.kill()
    (folder / "in the middle").unlink()
    found = sorted(path.name for path in folder.iterdir())
    assert found == [f"step=000002{suffix}", f"step=000004{suffix}.partial"]
    assert checkpoints.read_facts(folder / f"step=000002{suffix}").step == 2


SHARDED = [*FSDP2, "--checkpoint.every_steps=1"]


def test_sharded_checkpoint_exports_what_a_single_file_does(tmp_path, whole):
    ends = [whole("prune")[0] / "checkpoints/step=000012.ckpt"]
    ends.append(whole("prune", *SHARDED, processes=2)[0] / "checkpoints/step=000012")
    tensors = []
    for number, path in enumerate(ends):
        export(str(path), str(tmp_path / f"hf{number}"))
        tensors.append(load_file(tmp_path / f"hf{number}" / "model.safetensors"))
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert (tensor - tensors[1][name]).abs().max() <= 1e-5 * tensor.abs().max(), name


def resumed_alone(toy, tmp_path, whole, step, sabotage=None):
    """What a run of one process should have done from ``step`` on, and what one did that took over from two."""
    alone = whole("prune")[1][0]
    sharded, _ = whole("prune", *SHARDED, processes=2)
    arguments = [*toy.arguments("prune", tmp_path / "run"), FSDP2[0]]
    arguments.append(f"--ckpt_path={sharded / 'checkpoints' / f'step={step:06d}'}")
    resumed = run(fit, tmp_path / "log", arguments=arguments, sabotage=sabotage)
    parts = {"batches": step, "mixtures": step + 1, "domain_losses": step + 1}
    return [{**alone, **{part: from_step(first, alone[part]) for part, first in parts.items()}}], resumed


@pytest.mark.parametrize("step", [3, pytest.param(4, marks=pytest.mark.nightly)])
def test_one_process_takes_over_from_two(toy, tmp_path, whole, step):
    """At step 3 the two have done 6 micro-batches each, which is no multiple of the one's 4 per step."""
    expected, resumed = resumed_alone(toy, tmp_path, whole, step)
    assert same_order(expected, resumed)
    assert expected[0]["mixtures"].keys() == resumed[0]["mixtures"].keys()
    found = distances(expected, resumed)
    assert max(found.values()) <= 1e-5, found


def counts_of_those_who_wrote():
    boundary.set_micro_batches_done = lambda trainer, done: None


@pytest.mark.nightly
def test_count_of_other_processes_would_be_seen(toy, tmp_path, whole):
    expected, resumed = resumed_alone(toy, tmp_path, whole, 3, sabotage=counts_of_those_who_wrote)
    assert not same_order(expected, resumed)
