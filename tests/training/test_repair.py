"""Stage 1 that repairs the cut that it starts from: once, at step 0, in the weights that the cut keeps alone."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.carve import kept_entries, kept_units
from shear_lit.pruning.repair import repair
from shear_lit.pruning.settings import Pruning, RepairSettings
from shear_lit.pruning.starts import ranked_gates
from shear_lit.ranking.scores import read_scores
from shear_lit.reporting.model_facts import RepairFacts
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT
from shear_lit.theory.shape import ModelShape, ShapeError
from shear_lit.training import repairing
from shear_lit.training.checkpoints import read_checkpoint
from shear_lit.training.run_checkpoints import latest_checkpoint
from tests.pruning.repair.test_repair import text
from tests.toy import TARGETS
from tests.toy_families import FORMS, ONE_OF_EACH, model_of
from tests.training.forks import run
from tests.training.runs import fit

AT_A_CUT = (
    f"--model.pruning.initial_log_alpha={LOG_ALPHA_LIMIT}",
    "--model.pruning.initial_gap=9.2",
    "--model.pruning.sparsity_warmup_steps=0",
    "--model.pruning.repair.tokens=400",
    "--trainer.max_steps=4",
    # Weights stay what the repair made of them.
    "--model.optimizer.weights_learning_rate=1e-12",
    "--model.optimizer.gates_learning_rate=1e-12",
    "--model.optimizer.warmup_steps=0",
)


@pytest.fixture(scope="module")
def repaired(toy, tmp_path_factory):
    """The folder of a run that repaired its start, and the weights of its checkpoint."""
    folder = tmp_path_factory.mktemp("repaired") / "run"
    arguments = [*toy.arguments("prune", folder), *AT_A_CUT]
    run(fit, folder.parent / "log", processes=1, arguments=arguments)
    return folder, read_checkpoint(latest_checkpoint(folder))


def test_weights_of_the_cut_are_refitted_and_no_others(toy, repaired):
    folder, contents = repaired
    source = AutoModelForCausalLM.from_pretrained(toy.source())
    family = family_of(source.config)
    order = read_scores(str(min((folder / "gates").iterdir()))).importance
    kept = kept_units(ranked_gates(order, family.shape, contents.facts.target), family.shape)
    changed = 0
    for name, before in source.named_parameters():
        after = contents.tensors[name]
        moved = (after - before).abs() > 1e-6
        _, block = family.pattern(name)
        if before.ndim == 1 or (block is not None and block not in kept.layers):
            assert not moved.any(), name
            continue
        inside, cut = torch.zeros_like(moved), {cut.dim for cut in family.cuts_of(name)}
        dims = [
            kept_entries(family, kept, name, dim=dim) if dim in cut else torch.arange(size)
            for dim, size in enumerate(before.shape)
        ]
        inside[torch.meshgrid(*dims, indexing="ij")] = True
        assert not moved[~inside].any(), name
        changed += bool(moved[inside].any())
    facts = RepairFacts(**contents.facts.repair)
    assert changed == facts.refitted > 0.5 * facts.weights
    assert (folder / "repair.md").read_text().count("| model.") == facts.weights


@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.nightly), "fsdp2"])
def test_several_processes_find_what_one_does(toy, tmp_path, repaired, strategy):
    flags = (f"--trainer.strategy={strategy}", "--trainer.devices=2", "--data.micro_batch=1")
    arguments = [*toy.arguments("prune", tmp_path / "run"), *AT_A_CUT, *flags]
    run(fit, tmp_path / "log", processes=2, arguments=arguments)
    found = read_checkpoint(latest_checkpoint(tmp_path / "run"))
    assert found.facts.repair == repaired[1].facts.repair
    for name, expected in repaired[1].tensors.items():
        torch.testing.assert_close(found.tensors[name], expected, rtol=1e-3, atol=1e-4, msg=name)


def test_repair_is_refused_where_a_run_starts_at_no_cut():
    shape = ModelShape(**TARGETS["gqa-tied"])
    repair = RepairSettings(tokens=400)
    for starts in (
        {},
        {"initial_gap": 3.0},
        {"constraint": "exact", "sparsity_warmup_steps": 5},
    ):
        with pytest.raises(ShapeError, match=r"model\.pruning\.repair: .* no cut"):
            Pruning(target=shape, repair=repair, **starts)
    for starts in ({"initial_gap": 9.2}, {"constraint": "exact", "sparsity_warmup_steps": 0}):
        assert Pruning(target=shape, repair=repair, **starts).starts_at_a_cut


LIKE_LLAMA = ("mistral", "qwen2", "qwen3", "smollm3")


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=[pytest.mark.nightly] if form.family in LIKE_LLAMA else [])
        for form in ONE_OF_EACH + tuple(form for form in FORMS if form.family == "gemma2" and form.tied)
    ],
    ids=str,
)
def test_whole_model_under_the_gates_of_its_cut_computes_what_the_repaired_cut_does(form, monkeypatch):
    """Also where the cut's embedding is multiplied by another constant, which its last norm makes up for."""
    model = model_of(form, dtype=torch.float32)
    values, kept = form.gates(soft=False, dtype=torch.float32), {}

    def keeping(source, carved, *rest, **options):
        kept["carved"] = carved
        return repair(source, carved, *rest, **options)

    monkeypatch.setattr(repairing, "repair", keeping)
    passages = SimpleNamespace(passages=lambda source: text(30))
    found = repairing.repair_in_place(
        model, model.config, values, passages, parts="norms", device=torch.device("cpu"), reduce=None
    )
    assert any(item.refitted for item in found)
    ids = text(1, seed=2)[0].inputs["input_ids"]
    gates = attach(model, family_of(model.config))
    gates.set(values)
    with torch.no_grad():
        expected, got = kept["carved"](input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
