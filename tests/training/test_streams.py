"""Streams behind blocks, matched to the teacher's: of a model under gates, and of the model that is left of it."""

import os

import pytest
import torch

from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.models.huggingface import run_blocks_again
from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.carve import kept_units
from shear_lit.theory.losses import next_tokens
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training import streams
from shear_lit.training.distillation import LayerTerm, step_sums
from shear_lit.training.streams import Counterparts, StreamMatching, counterparts
from tests.toy import TARGETS
from tests.toy_families import ONE_OF_EACH, carved_of, model_of
from tests.training.compare import difference
from tests.training.forks import run
from tests.training.runs import fit
from tests.training.test_distillation import (
    DDP,
    FIRST_OF_EACH,
    FSDP2,
    GATES,
    WEIGHTS,
    Beside,
    gradient,
    labelled,
    one_step,
)

EVERYTHING = os.environ.get("SHEAR_LIT_DISTIL") == "all"
FORMS = dict.fromkeys((*FIRST_OF_EACH, *ONE_OF_EACH)) if EVERYTHING else FIRST_OF_EACH[:3]
ALL = Counterparts(torch.arange(4), torch.arange(36))


def blocks_of(model):
    return model.get_submodule(family_of(model.config).blocks)


def sums_of(model, teacher, units, gates, weight=0.5):
    """Of one batch, with the streams matched."""
    matching = StreamMatching(blocks_of(model), blocks_of(teacher), units)
    with matching.watched(gates) as distance:
        return step_sums(model, labelled(), WEIGHTS, Beside(teacher), LayerTerm(weight, distance))


def outputs_of(model, inputs):
    """What each block puts out."""
    found = {}
    hooks = [
        block.register_forward_hook(lambda block, _, output: found.__setitem__(block, output))
        for block in blocks_of(model)
    ]
    model(input_ids=inputs["input_ids"], use_cache=False)
    for hook in hooks:
        hook.remove()
    return list(found.values())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_distance_of_a_cut_is_that_of_the_model_under_its_gates_and_of_the_definition(form):
    """Units that are not kept count nowhere, and those that are, fully: gates are 0 or 1."""
    teacher = model_of(form).requires_grad_(requires_grad=False)
    gates = form.gates(soft=False, dtype=torch.float32)
    units = kept_units(gates, family_of(teacher.config).shape)
    student = carved_of(teacher, gates)
    cut = sums_of(student, teacher, Counterparts(units.layers, units.hidden), {})
    whole = model_of(form)
    attach(whole, family_of(whole.config)).set(gates)
    every = Counterparts(
        *(torch.arange(family_of(whole.config).shape.units(a)) for a in (Axis.LAYERS, Axis.HIDDEN))
    )
    gated = sums_of(whole, teacher, every, gates)
    torch.testing.assert_close(cut.layers, gated.layers, rtol=2e-4, atol=0)
    inputs = labelled()
    theirs, ours = outputs_of(teacher, inputs), outputs_of(student, inputs)
    counted = next_tokens(inputs["labels"]) != -100
    wanted = torch.stack(
        [
            (
                (one - theirs[layer][..., units.hidden]).square().sum(-1)
                / theirs[layer][..., units.hidden].square().sum(-1)
            )[counted].sum()
            for one, layer in zip(ours, units.layers.tolist(), strict=True)
        ]
    ).mean()
    torch.testing.assert_close(cut.layers, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        cut.total,
        sums_of(student, teacher, Counterparts(units.layers, units.hidden), {}, 0.0).total + 0.5 * wanted,
    )


def test_other_units_are_found_by_the_same_check():
    """The twin of the test above."""
    form = FIRST_OF_EACH[0]
    teacher, gates = (
        model_of(form).requires_grad_(requires_grad=False),
        form.gates(soft=False, dtype=torch.float32),
    )
    units = kept_units(gates, family_of(teacher.config).shape)
    student = carved_of(teacher, gates)
    right = sums_of(student, teacher, Counterparts(units.layers, units.hidden), {}).layers
    for wrong in (
        Counterparts(units.layers - 1, units.hidden),
        Counterparts(units.layers, units.hidden.roll(1)),
    ):
        found = float(sums_of(student, teacher, wrong, {}).layers)
        assert abs(found / float(right) - 1) > 0.01


def test_whole_model_is_at_no_distance_and_soft_gates_weigh_without_a_gradient_of_theirs():
    form = FIRST_OF_EACH[0]
    teacher, model = model_of(form).requires_grad_(requires_grad=False), model_of(form)
    assert float(sums_of(model, teacher, ALL, {}).layers.detach()) == 0
    layers = torch.tensor([1.0, 0.25, 0.5, 0.75], requires_grad=True)
    hidden = torch.rand(36, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    each = [
        float(sums_of(model, teacher, ALL, {Axis.LAYERS: torch.eye(4)[layer], Axis.HIDDEN: hidden}).layers)
        for layer in range(4)
    ]
    sums = sums_of(model, teacher, ALL, {Axis.LAYERS: layers, Axis.HIDDEN: hidden})
    wanted = sum(w * d for w, d in zip(layers.tolist(), each, strict=True)) / float(layers.detach().sum())
    assert float(sums.layers) == pytest.approx(wanted, rel=1e-5)
    sums.total.backward()
    assert layers.grad is None and hidden.grad is None
    closed = {Axis.LAYERS: torch.zeros(4), Axis.HIDDEN: torch.zeros(36)}
    assert float(sums_of(model, teacher, ALL, closed).layers) == 0


def test_blocks_that_run_again_give_the_same_gradient():
    form = FIRST_OF_EACH[0]
    teacher, gradients = model_of(form).requires_grad_(requires_grad=False), []
    for again in (False, True):
        model = model_of(form).train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        if again:
            run_blocks_again(model)
        sums_of(model, teacher, ALL, {}).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert not any(block._forward_hooks for block in blocks_of(model))
    assert difference(*gradients) <= 1e-6


@pytest.mark.skipif(not EVERYTHING, reason="in `make distil`")
def test_streams_have_one_objective_on_any_number_of_processes(toy, tmp_path):
    """In stage 1, documents apart: micro-batches of two on one process, and both strategies on two."""
    flags = (*GATES["lagrangian"], "--model.distillation.layers_weight=2", "--data.micro_batch=2")
    one = one_step(toy, tmp_path / "one", "prune", *flags)
    for name, way in {"fsdp2": FSDP2, "ddp": DDP}.items():
        two = one_step(toy, tmp_path / name, "prune", *flags, *way, processes=2)
        assert difference(gradient(one), gradient(two)) <= 1e-5, name
    assert any("loss/layers" in numbers for _, numbers in one[0]["reports"])


@pytest.fixture(scope="module")
def cut(toy, tmp_path_factory):
    """An export of a cut of the toy's source."""
    folder = tmp_path_factory.mktemp("cut")
    rank(str(toy.source()), str(folder / "scores.safetensors"), "weight")
    export(
        gates=str(folder / "scores.safetensors"),
        output=str(folder / "cut"),
        target=ModelShape(**TARGETS["gqa-tied"]),
    )
    return folder / "cut"


def units_of(cut, toy, teacher_fingerprint=None):
    source = streams.read_scores(str(cut / "gates.shear")).origin.source_fingerprint
    return counterparts(
        str(cut),
        ModelShape(**TARGETS["gqa-tied"]),
        fingerprint="of the cut",
        teacher_fingerprint=teacher_fingerprint or source,
    )


def test_a_cut_comes_closer_to_the_streams_of_its_source(toy, tmp_path, cut):
    """Stage 2: which units were kept is what the export says."""
    found = units_of(cut, toy)
    assert len(found.layers) == 2 and len(found.hidden) == 24
    flags = [
        f"--model.source={cut}",
        "--model.distillation.layers_weight=5",
        "--trainer.max_steps=8",
        "--trainer.log_every_n_steps=1",
        "--data.mixture.update_every_steps=8",
    ]
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), *flags]
    (record,) = run(fit, tmp_path / "log", arguments=arguments)
    distances = [numbers["loss/layers"] for _, numbers in record["reports"] if "loss/layers" in numbers]
    assert len(distances) == 8 and distances[-1] < 0.97 * distances[0]


def test_streams_of_which_nothing_is_known_are_refused(toy, tmp_path, cut):
    with pytest.raises(ValueError, match=r"model\.distillation\.layers_weight=it is not known which units"):
        counterparts(
            str(toy.source()), ModelShape(**TARGETS["gqa-tied"]), fingerprint="a", teacher_fingerprint="b"
        )
    with pytest.raises(ValueError, match=r"was cut from .* and the teacher is another model"):
        units_of(cut, toy, teacher_fingerprint="of another")
