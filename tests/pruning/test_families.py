"""Every family in every form: gated == carved == reloaded == generated with a cache; with twins that must fail.

The bounds are those of ``test_equivalence``, which goes deeper with one family.
"""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from shear_lit.models.family import NormKind
from shear_lit.models.huggingface import read_config, read_model
from shear_lit.models.registry import FAMILIES, carved_config, family_of
from shear_lit.models.writing import write_model
from shear_lit.pruning import attach as attach_module
from shear_lit.pruning import carve as carve_module
from shear_lit.pruning.attach import attach
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.theory.shape import Axis
from tests.pruning.test_attach import stored_bytes
from tests.toy_families import FORMS, HEAD_SIZE, KEPT_LAYERS, ONE_OF_EACH, Form, carved_of, model_of
from tests.toy_models import gated_logits, tables_with_one_carry_less, toy_ids

FLOAT64_BOUND = 1e-10
STOCK_BOUND = 1e-6  # of the largest logit
BROKEN = 1e-4  # a twin must be wrong by at least this share of the largest logit

CASES = [
    pytest.param(
        form,
        axes,
        id=f"{form}: {'+'.join(axes)}",
        marks=[] if form in ONE_OF_EACH or axes == form.axes else [pytest.mark.nightly],
    )
    for form in FORMS
    for axes in [*form.axes_alone, form.axes]
]
"""Every form with all axes, and one of each family with each alone; ``make long`` has the others alone, too."""
OF_BLOCKS = [
    form for form in ONE_OF_EACH if form.family not in ("llama", "mistral", "olmo2", "gpt_neox", "phi3")
]
"""The families whose blocks differ."""


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference as a share of the largest logit."""
    return float((left - right).abs().max() / right.abs().max())


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def test_every_family_has_forms_with_and_without_groups_and_a_tied_head():
    assert {form.family for form in FORMS} == set(FAMILIES)
    for family in FAMILIES:
        forms = {(form.grouped, form.tied) for form in FORMS if form.family == family}
        grouped = (False,) if family == "gpt_neox" else (True, False)
        if family != "llama":  # whose other forms test_equivalence has
            assert forms == set(itertools.product(grouped, (True, False))), family


@pytest.mark.parametrize(("form", "axes"), CASES)
def test_gated_equals_carved_in_float64(form, axes, float64_norms):
    model, ids, values = model_of(form), toy_ids(), form.gates(axes)
    gated, carved = gated_logits(model, values, ids), logits(carved_of(model, values), ids)
    torch.testing.assert_close(gated, carved, rtol=0, atol=FLOAT64_BOUND)
    assert difference(gated, logits(model, ids)) > BROKEN  # something was cut


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gated_equals_carved_with_hard_gates_in_float64(form, float64_norms):
    model, ids, values = model_of(form), toy_ids(), form.gates(soft=False)
    gated, carved = gated_logits(model, values, ids), logits(carved_of(model, values), ids)
    torch.testing.assert_close(gated, carved, rtol=0, atol=FLOAT64_BOUND)


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_gates_of_any_size_are_folded_exactly(form, float64_norms):
    """Hard-concrete gates end at 1; what folds them does not rely on it (docs/falls.md)."""
    model, values, ids = model_of(form), form.gates(), toy_ids()
    values = {axis: 2 * rows for axis, rows in values.items()}
    assert all(float(rows.max()) > 1 for rows in values.values())
    gated, carved = gated_logits(model, values, ids), logits(carved_of(model, values), ids)
    torch.testing.assert_close(gated, carved, rtol=0, atol=FLOAT64_BOUND * float(carved.abs().max()))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gated_equals_carved_with_the_stock_classes(form):
    model, ids, values = model_of(form), toy_ids(), form.gates()
    carved = logits(carved_of(model, values), ids)
    assert difference(gated_logits(model, values, ids), carved) <= STOCK_BOUND


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gated_equals_carved_in_float32_with_either_attention(form, attention):
    """Everything in float32: sums of other lengths round otherwise in every layer, hence a wider bound."""
    if (form.family, attention) == ("gemma2", "sdpa"):
        pytest.skip("gemma2 has no sdpa")
    model = model_of(form, dtype=torch.float32, attn_implementation=attention)
    ids, values = toy_ids(), form.gates(dtype=torch.float32)
    small = carved_of(model, values, dtype=torch.float32)
    small.set_attn_implementation(attention)
    assert difference(gated_logits(model, values, ids), logits(small, ids)) <= 5 * STOCK_BOUND


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_attached_with_all_gates_open_is_the_plain_model(form):
    """Bit for bit; a layer norm takes off the mean in another place."""
    model, ids = model_of(form, dtype=torch.float32), toy_ids()
    family = family_of(model.config)
    plain = logits(model, ids)
    is_open = {axis: torch.ones(family.shape.gate_shape(axis)) for axis in form.axes}
    gated = gated_logits(model, is_open, ids)
    if any(norm.kind is NormKind.LAYER for norm in family.norms):
        assert difference(gated, plain) <= STOCK_BOUND
    else:
        assert torch.equal(gated, plain)
    assert torch.equal(logits(model, ids), plain)
    assert all("forward" not in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", [form for form in FORMS if form.grouped != form.tied], ids=str)
def test_stock_directory_goes_in_and_a_stock_directory_comes_out(form, dtype, tmp_path):
    """Saved by the stock class, cut, written, and loaded by the stock class, which runs no code but its own."""
    source, output, ids = tmp_path / "source", tmp_path / "output", toy_ids()
    model_of(form, dtype=torch.float32).save_pretrained(source)
    config, model = read_config(str(source)), read_model(str(source), dtype=torch.float32)
    family, values = family_of(config), form.gates(dtype=torch.float32)
    family.check_target(form.target)
    kept = kept_units(values, family.shape)
    assert kept.shape == form.target
    gated = gated_logits(model, values, ids)
    small = carved_config(config, form.target, kept_layers=kept.layers.tolist())
    tensors = carve(dict(model.named_parameters()), family, values)
    write_model(output, small, tensors, companions_of=str(source), dtype=dtype)
    reloaded, report = AutoModelForCausalLM.from_pretrained(
        output, dtype="auto", trust_remote_code=False, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(reloaded) is type(model) and reloaded.dtype == dtype
    assert "auto_map" not in json.loads((output / "config.json").read_text())
    for name, parameter in reloaded.named_parameters():
        assert torch.equal(parameter, tensors[name].to(dtype)), name
    if dtype == torch.float32:
        assert difference(logits(reloaded.eval(), ids), gated) <= 5 * STOCK_BOUND
    again = AutoModelForCausalLM.from_pretrained(output, dtype="auto").eval()
    assert torch.equal(logits(again, ids), logits(reloaded.eval(), ids))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_generation_of_a_carved_model_is_the_same_with_and_without_its_cache(form):
    """Past the sliding windows."""
    small, prompt = carved_of(model_of(form), form.gates()), toy_ids(sequences=1, length=5)
    cached, plain = (
        small.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=6,
            do_sample=False,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for use_cache in (True, False)
    )
    assert torch.equal(cached.sequences, plain.sequences)
    # Rotary angles and some norms are computed in float32, hence not bitwise.
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 8},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": [1.0, 1.5, 2.0, 3.0],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
            "original_max_position_embeddings": 8,
        },
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_llama_with_any_scaled_rope_is_carved_and_reloads(scaling, float64_norms, tmp_path):
    """It depends on the head size, which stays; llama3's own is that of the other tests."""
    form = next(form for form in FORMS if form.family == "llama")
    model, ids = model_of(form, rope_parameters={"rope_theta": 500.0, **scaling}), toy_ids()
    values = form.gates()
    small = carved_of(model, values)
    gated = gated_logits(model, values, ids)
    torch.testing.assert_close(gated, logits(small, ids), rtol=0, atol=FLOAT64_BOUND)
    assert torch.equal(small.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    small.float().save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert reloaded.config.rope_parameters == model.config.rope_parameters
    assert torch.equal(logits(reloaded, ids), logits(small, ids))


def test_only_sliding_blocks_may_be_left(float64_norms, tmp_path):
    """Of Gemma 3: the rope of the blocks that are gone stays in the config, where nobody reads it."""
    form = next(form for form in FORMS if form.family == "gemma3_text")
    model, ids = model_of(form), toy_ids()
    gates = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    small = carved_of(model, {Axis.LAYERS: gates})
    assert small.config.layer_types == ["sliding_attention"] * 2
    gated = gated_logits(model, {Axis.LAYERS: gates}, ids)
    torch.testing.assert_close(gated, logits(small, ids), rtol=0, atol=FLOAT64_BOUND)
    small.float().save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tmp_path)


# Twins: each breaks one thing that makes gated == carved hold.


@pytest.mark.parametrize("form", OF_BLOCKS, ids=str)
def test_carving_with_the_config_entries_of_other_blocks_breaks_the_equivalence(form, float64_norms):
    model, ids, values = model_of(form), toy_ids(), form.gates((Axis.LAYERS,))
    assert list(KEPT_LAYERS) != [0, 1]
    gated = gated_logits(model, values, ids)
    assert difference(gated, logits(carved_of(model, values, kept_layers=[0, 1]), ids)) > BROKEN


CARRIES = [
    pytest.param(form, index, id=f"{form}: {name}")
    for form in ONE_OF_EACH
    for index, (name, _) in enumerate(tables_with_one_carry_less(family_of(form.config())))
]


@pytest.mark.parametrize(("form", "index"), CARRIES)
def test_carving_without_any_one_carried_gate_breaks_the_equivalence(form, index, float64_norms):
    model, ids, values = model_of(form), toy_ids(), form.gates()
    tables = tables_with_one_carry_less(family_of(model.config))
    _, broken = next(itertools.islice(tables, index, None))
    gated = gated_logits(model, values, ids)
    assert difference(gated, logits(carved_of(model, values, family=broken), ids)) > BROKEN


AFTER = [
    pytest.param(form, norm.module, id=f"{form}: {norm.module}")
    for form in ONE_OF_EACH
    for norm in family_of(form.config()).norms
    if norm.after is not None
]


@pytest.mark.parametrize(("form", "module"), AFTER)
def test_norm_after_a_layer_that_sees_lost_units_breaks_the_equivalence(
    form, module, float64_norms, monkeypatch
):
    """Their rows are not 0 by themselves."""
    model, ids, values = model_of(form), toy_ids(), form.gates()
    right = attach_module.source_before_norm

    def all_rows(values, family):
        return [None] * family.shape.layers

    monkeypatch.setattr(
        attach_module,
        "source_before_norm",
        lambda norm: all_rows if norm.module == module else right(norm),
    )
    gated = gated_logits(model, values, ids)
    assert difference(gated, logits(carved_of(model, values), ids)) > BROKEN


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_norms_that_divide_by_all_units_break_the_equivalence(form, float64_norms, monkeypatch):
    from shear_lit.pruning import vectors

    model, ids, values = model_of(form), toy_ids(), form.gates()
    right = vectors.norm_gates
    monkeypatch.setattr(vectors, "norm_gates", lambda gates, is_open: right(gates, torch.ones_like(is_open)))
    gated = gated_logits(model, values, ids)
    assert difference(gated, logits(carved_of(model, values), ids)) > BROKEN


GEMMAS = [form for form in FORMS if form.family.startswith("gemma")]


@pytest.mark.parametrize("form", GEMMAS, ids=str)
def test_embedding_scale_that_nobody_compensates_breaks_the_equivalence(form, float64_norms):
    model, ids, values = model_of(form), toy_ids(), form.gates()
    family = family_of(model.config)
    gated = gated_logits(model, values, ids)
    compensating = [cut for cut in family.cuts if cut.compensates]
    assert len(compensating) == (2 if form.tied else 1)
    for one in compensating:
        cuts = tuple(replace(cut, compensates=0) if cut is one else cut for cut in family.cuts)
        broken = carved_of(model, values, family=replace(family, cuts=cuts))
        assert difference(gated, logits(broken, ids)) > BROKEN, one.tensor


@pytest.mark.parametrize("form", GEMMAS[:1], ids=str)
def test_embedding_scale_of_another_precision_breaks_the_equivalence(form, float64_norms):
    """The model rounds it to what it was built in, float32 here: the exact root is another number."""
    model, ids, values = model_of(form), toy_ids(), form.gates()
    family = family_of(model.config)
    gated = gated_logits(model, values, ids)
    for wrong in (torch.float64, torch.bfloat16):
        tensors = carve(dict(model.named_parameters()), family, values, built_in=wrong)
        small = carved_of(model, values)
        small.load_state_dict(tensors, strict=False)
        assert (logits(small, ids) - gated).abs().max() > FLOAT64_BOUND


def test_a_bfloat16_gemma_is_carved_with_the_scale_that_bfloat16_models_have():
    """sqrt(36) is exact; sqrt(24) is not, and stock models built in bfloat16 round it."""
    form = GEMMAS[0]
    model = model_of(form, dtype=torch.float32)
    values = {Axis.HIDDEN: form.gates((Axis.HIDDEN,), soft=False, dtype=torch.float32)[Axis.HIDDEN]}
    tensors = carve(dict(model.named_parameters()), family_of(model.config), values, built_in=torch.bfloat16)
    kept = values[Axis.HIDDEN].nonzero().flatten()
    rounded = torch.tensor(24**0.5).bfloat16().float()
    expected = model.model.embed_tokens.weight[:, kept] * (6 / rounded)
    torch.testing.assert_close(tensors["model.embed_tokens.weight"], expected)
    assert rounded != torch.tensor(24**0.5)


@pytest.mark.parametrize("form", GEMMAS[:1], ids=str)
def test_norm_weights_that_are_scaled_as_if_nothing_were_added_break_the_equivalence(
    form, float64_norms, monkeypatch
):
    """(1 + w) z is not 1 + w z."""
    model, ids, values = model_of(form), toy_ids(), form.gates((Axis.HIDDEN,))
    gated = gated_logits(model, values, ids)
    monkeypatch.setattr(carve_module, "NormKind", type("Kinds", (), {"ONE_PLUS_RMS": None}))
    assert difference(gated, logits(carved_of(model, values), ids)) > BROKEN


# Training


def gradients(model, form: Form, ids) -> dict[str, torch.Tensor]:
    """The gradients of the language loss, of weights and of gates."""
    values = {axis: gate.requires_grad_() for axis, gate in form.gates(dtype=torch.float32, seed=4).items()}
    model.zero_grad()
    attached = attach(model, family_of(model.config))
    attached.set(values)
    loss = model(ids, labels=ids, use_cache=False).loss
    found = torch.autograd.grad(loss, [*model.parameters(), *values.values()])
    attached.detach()
    return dict(zip([*dict(model.named_parameters()), *values], found, strict=True))


NEW_ARITHMETIC = [form for form in ONE_OF_EACH if form.family in ("olmo2", "gemma3_text", "gpt_neox")]


@pytest.mark.parametrize("form", NEW_ARITHMETIC, ids=str)
def test_activation_checkpointing_gives_equal_gradients(form):
    model, ids = model_of(form, dtype=torch.float32).train(), toy_ids()
    stored = gradients(model, form, ids)
    model.activation_checkpointing_enable({"use_reentrant": False})
    recomputed = gradients(model, form, ids)
    for name in stored:  # autograd adds up a shared gate's parts in another order
        torch.testing.assert_close(stored[name], recomputed[name], rtol=1e-5, atol=1e-6)
    assert all(recomputed[axis].any() for axis in form.axes)


@pytest.mark.parametrize("form", NEW_ARITHMETIC, ids=str)
def test_gradients_of_the_gates_are_those_of_finite_differences(form, float64_norms):
    model, ids = model_of(form), toy_ids()
    family = family_of(model.config)
    attached = attach(model, family)
    values = {axis: gate.requires_grad_() for axis, gate in form.gates().items()}

    def loss_of(values):
        attached.set(values)
        return torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), ids.flatten())

    found = torch.autograd.grad(loss_of(values), list(values.values()))
    step = 1e-5
    for (axis, gates), gradient in zip(values.items(), found, strict=True):
        index = tuple(gates.detach().nonzero()[-1].tolist())
        ends = []
        for sign in (1, -1):
            moved = {name: gate.detach().clone() for name, gate in values.items()}
            moved[axis][index] += sign * step
            with torch.no_grad():
                ends.append(loss_of(moved))
        assert gradient[index].item() == pytest.approx(
            float(ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-9
        ), axis


@pytest.mark.parametrize("form", NEW_ARITHMETIC, ids=str)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16"])
def test_narrow_training_gives_the_gates_float32_gradients_like_the_wide_ones(form, autocast):
    exact = gradients(model_of(form, dtype=torch.float32).train(), form, toy_ids())
    narrow = model_of(form, dtype=torch.float32 if autocast else torch.bfloat16).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = gradients(narrow, form, toy_ids())
    for axis in form.axes:
        assert found[axis].dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(found[axis].flatten(), exact[axis].flatten(), dim=0)
        assert cosine > 0.97, axis


@pytest.mark.parametrize("form", NEW_ARITHMETIC, ids=str)
def test_no_activation_and_no_weight_is_stored_a_second_time(form):
    """All gates together store less than one activation of the residual stream, and than one weight matrix."""
    model, ids = model_of(form, dtype=torch.float32).train(), toy_ids(sequences=8, length=60)
    values = {axis: gate.requires_grad_() for axis, gate in form.gates(dtype=torch.float32).items()}
    plain, gated = (stored_bytes(model, gates, ids) for gates in ({}, values))
    hidden = model.config.hidden_size
    assert gated - plain < min(ids.numel() * hidden, hidden * 6 * HEAD_SIZE) * 4
