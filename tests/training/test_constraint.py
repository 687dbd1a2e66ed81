"""Runs under both constraints: on schedule, resumed exactly, alike on several processes, and loud if they miss."""

import csv
import math

import pytest
import torch
import yaml

from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.pruning.constraints import Exact
from shear_lit.pruning.starts import ordered_log_alpha, ranked_gates
from shear_lit.ranking.scores import read_scores
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training.checkpoints import read_checkpoint
from shear_lit.training.run_checkpoints import latest_checkpoint
from tests.toy import TARGETS
from tests.training.compare import distances, same_order
from tests.training.forks import run
from tests.training.runs import fit

TOP = f"--model.pruning.initial_log_alpha={math.log(100)}"
EXACT = ("--model.pruning.constraint=exact", TOP, "--model.optimizer.gates_learning_rate=0.05")
FSDP2 = ("--trainer.strategy=fsdp2", "--trainer.devices=2")


def sizes(folder):
    """By axis, expected and scheduled units of every report."""
    found = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            parts = row["name"].split("/")
            if parts[0] == "size":
                found.setdefault(parts[1], {}).setdefault(parts[2], []).append(float(row["value"]))
    return found


def test_exact_run_is_on_its_schedule_at_every_step_and_has_no_multipliers(whole):
    folder, (record,) = whole("prune", *EXACT, "--trainer.log_every_n_steps=1")
    for axis, curves in sizes(folder).items():
        # Numbers of a step's start beside the schedule of its end: one step of it apart.
        assert curves["expected"][1:] == pytest.approx(curves["target"][:-1], abs=1e-2), axis
    assert not any("multipliers" in name for name in record["parameters"])
    assert len(record["rates"]) == 2
    report = (folder / "metrics.csv").read_text()
    assert "multipliers/" not in report and "loss/size_penalty" not in report


@pytest.mark.nightly
def test_exact_gates_of_several_processes_are_those_of_one(toy, tmp_path, whole):
    arguments = [*toy.arguments("prune", tmp_path / "run"), *EXACT, "--trainer.log_every_n_steps=1", *FSDP2]
    several = run(fit, tmp_path / "log", processes=2, arguments=arguments)
    _, one = whole("prune", *EXACT, "--trainer.log_every_n_steps=1")
    assert same_order(one, several)
    found = distances(one, several)
    assert max(found.values()) <= 1e-4, found


def test_exact_run_that_is_resumed_ends_as_one_that_was_not(toy, tmp_path, whole):
    folder, one = whole("prune", *EXACT, "--trainer.log_every_n_steps=1")
    middle = folder / "checkpoints" / "step=000006.ckpt"
    arguments = [*toy.arguments("prune", tmp_path / "run"), *EXACT, f"--ckpt_path={middle}"]
    (again,) = run(fit, tmp_path / "log", arguments=arguments)
    for name, parameter in one[0]["parameters"].items():
        assert torch.equal(parameter, again["parameters"][name]), name


def test_export_of_an_exact_run_keeps_what_its_gates_say(tmp_path, whole):
    folder, _ = whole("prune", *EXACT, "--trainer.log_every_n_steps=1")
    checkpoint = latest_checkpoint(folder)
    contents = read_checkpoint(checkpoint)
    assert isinstance(
        contents.facts.constraint, Exact
    ) and contents.facts.constraint.sharpness == pytest.approx(200)
    result = export(checkpoint, str(tmp_path / "out"))
    assert [
        warning for warning in result.warnings if "refused by" not in warning
    ] == []  # who reads the shape
    assert not any(axis.off_target for axis in result.expected)
    for axis in result.expected:
        assert (axis.lowest, axis.highest) == pytest.approx((axis.target, axis.target), abs=1e-2)


def test_exact_run_starts_as_the_ranked_cut(toy, tmp_path, whole):
    scores = tmp_path / "gates.safetensors"
    rank(str(toy.source()), str(scores), "fisher", str(toy.data), sequences_per_domain=2)
    flags = (
        *EXACT,
        f"--model.pruning.initial_scores={scores}",
        "--model.pruning.sparsity_warmup_steps=0",
        "--model.optimizer.gates_learning_rate=0",
    )
    folder, (record,) = whole("prune", *flags)
    target = ModelShape(**TARGETS["gqa-tied"])
    source = ModelShape(layers=3, hidden=32, query_heads=8, kv_heads=2, intermediate=48)
    found = read_scores(str(scores))
    start = ordered_log_alpha(found.importance, target, gap=0.0)
    contents = read_checkpoint(latest_checkpoint(folder))
    assert contents.facts.ordered_by == "fisher"
    cut = contents.facts.constraint.standing(contents.log_alpha, target)
    for axis, values in ranked_gates(found.importance, source, target).items():
        torch.testing.assert_close(record["gates_after"][1][axis.value], start[axis])
        assert torch.equal(cut[axis] > 0, values > 0)


def test_checkpoint_of_an_exact_run_says_what_its_gates_are_held_to(whole):
    folder, _ = whole("prune", *EXACT, "--trainer.log_every_n_steps=1")
    contents = read_checkpoint(folder / "checkpoints" / "step=000002.ckpt")
    exact = contents.facts.constraint
    assert exact.kept[Axis.HIDDEN] == pytest.approx(32 - 8 * 2 / 4)
    assert exact.sharpness == pytest.approx(50 * 4 ** (2 / (0.8 * 12)))


def test_checkpoint_of_the_other_constraint_is_refused(toy, tmp_path, whole, capfd):
    from shear_lit import cli

    folder, _ = whole("prune")
    middle = folder / "checkpoints" / "step=000006.ckpt"
    with pytest.raises(SystemExit):
        cli.main([*toy.arguments("prune", tmp_path / "run"), *EXACT, f"--ckpt_path={middle}"])
    assert "Use model.pruning.constraint=lagrangian" in capfd.readouterr().err


def test_run_that_misses_its_target_says_so_at_its_end(toy, tmp_path, whole):
    """Twelve steps of slow gates move nothing; exact gates arrive."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), "--model.optimizer.gates_learning_rate=0.001"]
    run(fit, tmp_path / "log", arguments=arguments)
    said = (tmp_path / "log" / "0.log").read_text()
    assert "WARNING: hidden: the gates keep" in said and "the target is 24" in said


def test_resolved_target_is_written_into_the_configuration(toy, tmp_path):
    arguments = [
        *(part for part in toy.arguments("prune", tmp_path / "run") if "pruning.target" not in part),
        "--model.pruning.target=null",
        "--model.pruning.target_parameters=16000",
        "--model.pruning.axes=[layers,hidden,intermediate]",
        "--trainer.max_steps=4",
    ]
    run(fit, tmp_path / "log", arguments=arguments)
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["pruning"]
    facts = read_checkpoint(latest_checkpoint(tmp_path / "run")).facts
    assert written["target"] == facts.target.to_dict() and written["target_parameters"] is None
    assert "runners-up" in (tmp_path / "log" / "0.log").read_text()


def test_validation_of_a_checkpoint_has_the_gates_of_its_step(toy, tmp_path, whole):
    """At step 0 they would be of the whole model, and the losses others."""
    folder, _ = whole("prune", *EXACT, "--trainer.log_every_n_steps=1")
    checkpoint = latest_checkpoint(folder)
    arguments = [*toy.arguments("prune", tmp_path / "run"), *EXACT, f"--ckpt_path={checkpoint}"]
    run(fit, tmp_path / "log", arguments=["validate", *arguments[1:]])
    said = (tmp_path / "log" / "0.log").read_text()
    for name, loss in read_checkpoint(checkpoint).facts.losses.items():
        assert f"{name:<24} {loss:.4f} nats per token" in said
