"""One objective of a global batch, also beside a teacher: against whole logits, and for any way of dealing it out."""

import json

import pytest
import torch
from torch.nn import functional

from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.data.serving.batch import model_inputs
from shear_lit.reporting.recipe import RECIPE, read_recipe
from shear_lit.theory import losses
from shear_lit.theory.losses import Weights
from shear_lit.theory.shape import ModelShape
from shear_lit.training.distillation import Distillation, step_sums
from shear_lit.training.run_checkpoints import latest_checkpoint
from tests import tiny
from tests.toy import trained_tokenizer, write_source
from tests.toy_families import FORMS, ONE_OF_EACH, carved_of, model_of
from tests.toy_models import VOCABULARY
from tests.training.compare import batches, difference, same_order
from tests.training.forks import ForkError, run
from tests.training.runs import fit

FIRST_OF_EACH = tuple({form.family: form for form in reversed(FORMS)}.values())
WEIGHTS = Weights(language=0.3, divergence=0.7)


class Beside:
    """What a teacher is to a step."""

    def __init__(self, model):
        self.model = model


def labelled(rows=3, length=9):
    tokens = torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(4))
    mask = torch.rand(rows, length, generator=torch.Generator().manual_seed(5)) < 0.8
    return model_inputs({"tokens": tokens, "loss_mask": mask})


def whole_logits(student, teacher, inputs, weights):
    """The same sums from the logits that stock models give."""
    given, counted = {"input_ids": inputs["input_ids"]}, inputs["labels"][:, 1:] != losses.IGNORED
    log_q, log_p = (model(**given).logits[:, :-1][counted].log_softmax(-1) for model in (student, teacher))
    language = functional.nll_loss(log_q, inputs["labels"][:, 1:][counted], reduction="sum")
    divergence = functional.kl_div(log_q, log_p.detach(), reduction="sum", log_target=True)
    return weights.language * language + weights.divergence * divergence


@pytest.mark.parametrize("form", dict.fromkeys((*FIRST_OF_EACH, *ONE_OF_EACH)), ids=str)
def test_objective_of_every_family_is_that_of_whole_logits(monkeypatch, form):
    """The teacher is the model that was cut, of another width, with its own head and its soft caps."""
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 5 * VOCABULARY)
    teacher, inputs = model_of(form), labelled()
    student, again = (carved_of(teacher, form.gates(soft=False)).train() for _ in range(2))
    before = dict(student.config.to_dict())
    sums = step_sums(student, inputs, WEIGHTS, Beside(teacher.requires_grad_(requires_grad=False)))
    sums.total.backward()
    wanted = whole_logits(again, teacher, inputs, WEIGHTS)
    wanted.backward()
    assert float(sums.total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    for (name, parameter), other in zip(student.named_parameters(), again.parameters(), strict=True):
        scale = max(1e-9, float(other.grad.abs().max()))
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=1e-6 * scale, msg=name)
    assert student.config.to_dict() == before
    logits = student(input_ids=inputs["input_ids"]).logits
    assert torch.equal(logits, again(input_ids=inputs["input_ids"]).logits)


def test_a_micro_batch_of_which_nothing_is_predicted_adds_nothing():
    network, tokens = tiny.model(tiny.config()), torch.randint(3, tiny.VOCABULARY, (2, 9))
    inputs = model_inputs({"tokens": tokens, "loss_mask": torch.zeros(2, 9, dtype=torch.bool)})
    sums = step_sums(network, inputs, Weights(), None)
    sums.total.backward()
    assert float(sums.total.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


# Runs of one step, in which no weight has moved: the first moments of AdamW are the gradient.

ONE_STEP = (
    "--trainer.max_steps=1",
    "--model.optimizer.warmup_steps=1",
    "--data.mixture.update_every_steps=1",
    "--data.cross_document_attention=false",
)
GATES = {
    "lagrangian": ("--model.pruning.sparsity_warmup_steps=1",),
    "exact": (
        "--model.pruning.sparsity_warmup_steps=1",
        "--model.pruning.constraint=exact",
        "--model.pruning.initial_log_alpha=4.605170185988092",
        "--model.pruning.ranking=weight",
    ),
}
FSDP2 = ("--trainer.strategy=fsdp2", "--trainer.devices=2")
DDP = ("--trainer.strategy=ddp", "--trainer.devices=2")


def one_step(toy, folder, stage, *flags, processes=1):
    arguments = [*toy.arguments(stage, folder / "run"), *ONE_STEP, *flags]
    return run(fit, folder / "log", processes=processes, arguments=arguments)


def teacher_of(toy):
    """Another model of the same tokenizer, with more heads and an untied head."""
    return (
        f"--model.distillation.teacher={toy.source('mha-untied')}",
        "--model.distillation.language_weight=0.5",
        "--model.distillation.temperature=2",
    )


def gradient(ranks):
    return {name: value for name, value in ranks[0]["moments"].items() if name.endswith(".exp_avg")}


def loss_of(ranks):
    """The mean over all micro-batches is the mean over all tokens."""
    found = [batch["loss"] for batch in batches(ranks).values()]
    return sum(found) / len(found)


WAYS = {"micro-batch 1": (1, ("--data.micro_batch=1",)), "fsdp2": (2, FSDP2), "ddp": (2, DDP)}


@pytest.mark.parametrize(
    ("taught", "ways"),
    [
        (True, ("micro-batch 1",)),
        pytest.param(True, ("fsdp2", "ddp"), marks=pytest.mark.nightly),
        pytest.param(False, tuple(WAYS), marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_micro_batches_and_processes_change_no_gradient_of_documents_apart(toy, tmp_path, taught, ways):
    teacher = teacher_of(toy) if taught else ()
    expected = one_step(toy, tmp_path / "one", "pretrain", *teacher, "--data.micro_batch=8")
    for name, (processes, flags) in ((name, WAYS[name]) for name in ways):
        found = one_step(toy, tmp_path / name, "pretrain", *teacher, *flags, processes=processes)
        assert difference(gradient(expected), gradient(found)) <= 1e-5, name
        assert loss_of(found) == pytest.approx(loss_of(expected), rel=1e-6), name


@pytest.mark.parametrize(
    ("constraint", "ways"),
    [
        ("exact", ("fsdp2",)),
        pytest.param("exact", ("ddp",), marks=pytest.mark.nightly),
        pytest.param("lagrangian", ("fsdp2", "ddp"), marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_gates_have_the_same_gradient_on_two_processes_beside_a_teacher(toy, tmp_path, constraint, ways):
    flags = (*GATES[constraint], "--model.distillation.language_weight=0.5", "--data.micro_batch=2")
    one = one_step(toy, tmp_path / "one", "prune", *flags)
    for name in ways:
        two = one_step(toy, tmp_path / name, "prune", *flags, *WAYS[name][1], processes=2)
        assert same_order(one, two)
        found = difference(gradient(one), gradient(two))
        assert found <= 1e-5, (name, found)
    assert any(bool(rows.any()) for name, rows in gradient(one).items() if name.startswith("gates."))


def test_teacher_is_in_no_checkpoint_and_makes_a_run_another(toy, tmp_path):
    """Of the source that was pruned, which an export remembers: taught by it, a cut comes closer to it."""
    taught = one_step(toy, tmp_path / "a", "prune", *GATES["lagrangian"], "--model.distillation={}")
    alone = one_step(toy, tmp_path / "b", "prune", *GATES["lagrangian"])
    assert difference(gradient(taught), gradient(alone)) > 1e-3
    assert taught[0]["parameters"].keys() == alone[0]["parameters"].keys()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model.distillation.weight=0",), "model.distillation.weight"),
        (("--model.distillation.temperature=-1",), "model.distillation.temperature"),
        (("--model.distillation.teacher=source",), "model.distillation.teacher"),
        (("--model.distillation.teacher=no/such/model",), "model.distillation.teacher"),
    ],
)
def test_distillation_that_cannot_be_is_refused_in_one_line(toy, tmp_path, flags, said):
    with pytest.raises(ForkError) as refused:
        one_step(toy, tmp_path, "pretrain", *flags)
    (line,) = [line for line in str(refused.value).splitlines() if line.startswith("error: ")]
    assert said in line


def test_teacher_of_another_tokenizer_is_refused(toy, tmp_path):
    write_source(tmp_path / "other", trained_tokenizer([str(toy.root / "law.jsonl")]))
    with pytest.raises(ForkError) as refused:
        one_step(toy, tmp_path, "pretrain", f"--model.distillation.teacher={tmp_path / 'other'}")
    (line,) = [line for line in str(refused.value).splitlines() if line.startswith("error: ")]
    assert "model.distillation.teacher" in line and "another tokenizer" in line


def test_source_of_an_export_teaches_what_was_cut_from_it(toy, tmp_path):
    """An export remembers its source; the loss of the first step has the source's divergence from the cut in it."""
    scores = tmp_path / "scores.safetensors"
    rank(str(toy.source()), str(scores), "weight")
    target = ModelShape(layers=2, hidden=24, query_heads=4, kv_heads=2, intermediate=32)
    export(gates=str(scores), output=str(tmp_path / "cut"), target=target)
    flags = (f"--model.source={tmp_path / 'cut'}", "--model.distillation={}")
    found = one_step(toy, tmp_path, "pretrain", *flags)
    named = one_step(
        toy, tmp_path / "named", "pretrain", *flags, f"--model.distillation.teacher={toy.source()}"
    )
    assert difference(gradient(found), gradient(named)) == 0
    export(str(latest_checkpoint(tmp_path / "run")), str(tmp_path / "taught"))
    card, recipe = (tmp_path / "taught" / "README.md").read_text(), read_recipe(tmp_path / "taught")
    assert f"- teacher: `{toy.source()}`" in card and recipe["teacher"]["objective"] == "forward_kl"
    assert recipe["source_recipe"]["teacher"] is None


def test_settings_of_a_teacher_become_weights():
    found = Distillation(weight=2.0, language_weight=0.5, temperature=3.0, objective="reverse_kl").weights
    assert found == Weights(language=0.5, divergence=2.0, temperature=3.0, kind="reverse_kl")


def test_source_below_the_home_directory_says_what_it_was_pruned_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned" / RECIPE).write_text(json.dumps({"source": "whole", "source_fingerprint": "a" * 64}))
    settings = Distillation()
    assert settings.teacher_of("~/pruned", pruning=False) == "whole"
    assert settings.teacher_fingerprint("~/pruned", pruning=False) == "a" * 64
