"""Which shapes each family takes: the rules are those of the stock classes; and what a carved config says of blocks."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Phi3Config

from shear_lit.models.family import FamilyError
from shear_lit.models.registry import carved_config, family_of, parameter_count, tensor_sizes, written_config
from shear_lit.theory.shape import Axis, ModelShape, ShapeError
from tests.toy_families import FORMS, HEAD_SIZE, ONE_OF_EACH, Form, carved_of, model_of, weighed
from tests.toy_models import SOME_VARIANTS, gated_logits, random_gates, toy_config, toy_ids, toy_model

MULTIPLES = ("llama", "gemma2", "gemma3_text")
"""Families that take only multiples of the heads."""
ANY = ("mistral", "qwen2", "qwen3", "smollm3", "olmo2", "phi3")


def form_of(family: str) -> Form:
    return next(form for form in FORMS if form.family == family)


def shape_of(form: Form, **sizes: int) -> ModelShape:
    return ModelShape(**{**family_of(form.config()).shape.to_dict(), **sizes})


def refusal(form: Form, **sizes: int) -> str:
    with pytest.raises(ShapeError) as error:
        family_of(form.config()).check_target(shape_of(form, **sizes))
    return str(error.value)


@pytest.mark.parametrize("family", ANY)
def test_any_hidden_size_is_taken_and_reloads_with_its_head_size(family, tmp_path):
    form = form_of(family)
    odd = shape_of(form, hidden=29, layers=2)
    family_of(form.config()).check_target(odd)
    config = carved_config(form.config(), odd, kept_layers=(0, 3))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert family_of(reloaded.config).shape == odd
    assert family_of(reloaded.config).head_size == HEAD_SIZE
    assert sum(parameter.numel() for parameter in reloaded.parameters()) == parameter_count(
        form.config(), odd
    )


@pytest.mark.parametrize("family", MULTIPLES)
def test_hidden_that_is_no_multiple_of_the_heads_is_refused_with_the_nearest(family):
    form = form_of(family)
    heads = form.config().num_attention_heads
    message = refusal(form, hidden=29)
    assert f"target.hidden=29 with query_heads={heads}" in message and family in message
    assert "Use hidden=24 or 30" in message
    for size in (24, 30):
        family_of(form.config()).check_target(shape_of(form, hidden=size))
    entries = form.config().to_dict() | {"hidden_size": 29}
    with pytest.raises(StrictDataclassClassValidationError, match="not a multiple"):  # why the rule exists
        form.config_class.from_dict(entries)


def test_nearest_sizes_are_none_that_the_source_does_not_have():
    family = family_of(form_of("llama").config(hidden_size=42))
    for hidden, repair in (
        (41, "Use hidden=40, or write"),
        (7, "Use hidden=4 or 8, or"),
        (3, "Use hidden=4, or"),
    ):
        with pytest.raises(ShapeError) as error:
            family.check_shape(ModelShape(layers=1, hidden=hidden, query_heads=4, kv_heads=2, intermediate=1))
        assert repair in str(error.value)


def test_gpt_neox_keeps_its_heads_as_wide_as_the_stream():
    form = form_of("gpt_neox")
    message = refusal(form, hidden=20)
    assert "target.hidden=20 with query_heads=4" in message
    assert "query_heads x 8" in message
    assert (
        "Use hidden=16 with query_heads=2 or hidden=24 with query_heads=3 or hidden=32 with query_heads=4."
        in message
    )
    for heads in (2, 3, 4):
        family_of(form.config()).check_target(
            shape_of(form, hidden=heads * 8, query_heads=heads, kv_heads=heads)
        )
    assert "hidden=16 with query_heads=2" in refusal(form, query_heads=2, kv_heads=2)


def test_gpt_neox_config_gets_no_head_size():
    """One would change the rotary embedding without a word."""
    form = form_of("gpt_neox")
    config = carved_config(form.config(), form.target)
    assert "head_dim" not in config.to_dict()
    assert config.rope_parameters == form.config().rope_parameters


_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 8,
}


def longrope() -> Phi3Config:
    """A stream as wide as its six heads of eight entries."""
    return form_of("phi3").config(
        hidden_size=48, rope_parameters=_LONGROPE, original_max_position_embeddings=8, sliding_window=None
    )


def test_phi3_with_longrope_keeps_its_heads_as_wide_as_the_stream(float64_norms):
    config = longrope()
    family = family_of(config)
    with pytest.raises(ShapeError, match="longrope") as error:
        family.check_target(ModelShape(**{**family.shape.to_dict(), "hidden": 32}))
    assert "Use hidden=32 with query_heads=4 or hidden=48 with query_heads=6." in str(error.value)
    target = ModelShape(layers=3, hidden=32, query_heads=4, kv_heads=2, intermediate=12)
    family.check_target(target)
    axes = (Axis.LAYERS, Axis.HIDDEN, Axis.KV_HEADS, Axis.INTERMEDIATE)
    model, ids, values = weighed(config), toy_ids(), random_gates(family.shape, target, axes)
    small = carved_of(model, values)
    with torch.no_grad():
        torch.testing.assert_close(gated_logits(model, values, ids), small(ids).logits, rtol=0, atol=1e-10)


def test_phi3_without_longrope_takes_what_longrope_refuses():
    form = form_of("phi3")
    family_of(form.config()).check_target(shape_of(form, hidden=29))


# What a config says of blocks


@pytest.mark.parametrize(
    ("family", "entry", "kept"),
    [
        ("smollm3", "no_rope_layers", [0, 1]),
        ("gemma2", "layer_types", ["full_attention", "sliding_attention"]),
        ("gemma3_text", "layer_types", ["full_attention", "sliding_attention"]),
        ("qwen2", "layer_types", ["full_attention", "sliding_attention"]),
        ("qwen3", "layer_types", ["full_attention", "sliding_attention"]),
    ],
)
def test_lists_of_blocks_follow_the_blocks_that_are_kept(family, entry, kept):
    form = form_of(family)
    config = carved_config(form.config(), form.target, kept_layers=(1, 3))
    assert getattr(config, entry) == kept
    again = type(config).from_dict(config.to_dict())
    assert getattr(again, entry) == kept


def test_count_of_blocks_without_a_window_follows_the_blocks_that_are_kept():
    form = form_of("qwen2")
    for kept, expected in (((1, 3), 1), ((0, 1), 2), ((2, 3), 0)):
        config = carved_config(form.config(), form.target, kept_layers=kept)
        assert config.max_window_layers == expected
        assert config.layer_types == ["full_attention"] * expected + ["sliding_attention"] * (2 - expected)
    assert carved_config(form.config(), shape_of(form)).max_window_layers == 2


@pytest.mark.parametrize("family", ["smollm3", "gemma2"])
def test_config_of_blocks_that_differ_is_not_guessed(family):
    form = form_of(family)
    with pytest.raises(ValueError, match="say which blocks are kept"):
        carved_config(form.config(), form.target)
    with pytest.raises(ValueError, match="1 blocks are kept, and the shape has 2"):
        carved_config(form.config(), form.target, kept_layers=(3,))


def test_blocks_that_do_not_differ_need_not_be_named():
    form = form_of("qwen3")
    config = form.config(use_sliding_window=False)
    assert carved_config(config, form.target).layer_types == ["full_attention"] * 2


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_carved_config_changes_nothing_but_sizes_and_blocks(form):
    source = form.config(dtype="bfloat16")
    before = source.to_dict()
    after = carved_config(source, form.target, kept_layers=(1, 3)).to_dict()
    assert source.to_dict() == before
    family = family_of(source)
    may_change = set(family.resized(form.target)) | {*family.per_layer, *family.layer_counts}
    assert {key for key in before if before[key] != after.get(key)} <= may_change
    assert after.keys() - before.keys() <= {"head_dim"}


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_count_of_every_axis_alone_and_of_all_is_that_of_the_carved_model(form):
    model = model_of(form)
    for axes in [*form.axes_alone, form.axes]:
        small = carved_of(model, form.gates(axes))
        live = sum(parameter.numel() for parameter in small.parameters())
        assert parameter_count(model.config, family_of(small.config).shape) == live
        assert live < parameter_count(model.config)


# A llama model written as mistral


UNBIASED = SOME_VARIANTS[0]


def test_llama_written_as_mistral_is_the_same_model_bit_for_bit():
    source = toy_model(toy_config(UNBIASED), dtype=torch.float32)
    config = written_config(source.config, "mistral")
    assert isinstance(config, MistralConfig) and config.sliding_window is None
    assert config.architectures == ["MistralForCausalLM"]
    assert tensor_sizes(config) == tensor_sizes(source.config)
    twin = AutoModelForCausalLM.from_config(config).eval()
    twin.load_state_dict(source.state_dict(), strict=True)
    ids = toy_ids(length=40)
    with torch.no_grad():
        assert torch.equal(twin(ids).logits, source(ids).logits)


def test_llama_written_as_mistral_keeps_its_scaled_rope():
    form = form_of("llama")
    source = model_of(form, dtype=torch.float32)
    twin = AutoModelForCausalLM.from_config(written_config(source.config, "mistral")).eval()
    twin.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(twin.model.rotary_emb.inv_freq, source.model.rotary_emb.inv_freq)
    with torch.no_grad():
        assert torch.equal(twin(toy_ids()).logits, source(toy_ids()).logits)


def test_llama_written_as_mistral_takes_the_hidden_size_that_llama_refuses(tmp_path):
    """448 with 9 heads: SmolLM2's heads and a width that kernels like."""
    smollm2 = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    shape = ModelShape(layers=24, hidden=448, query_heads=9, kv_heads=3, intermediate=1152)
    with pytest.raises(ShapeError, match="Use hidden=441 or 450, or write the model as mistral"):
        family_of(smollm2).check_target(shape)
    mistral = written_config(smollm2, "mistral")
    family_of(mistral).check_target(shape)
    small = carved_config(mistral, shape)
    small.save_pretrained(tmp_path)
    reloaded = MistralConfig.from_pretrained(tmp_path)
    assert (reloaded.hidden_size, reloaded.head_dim, reloaded.sliding_window) == (448, 64, None)


def test_gated_llama_equals_the_mistral_that_is_carved_of_it(float64_norms):
    source, ids = toy_model(toy_config(UNBIASED)), toy_ids()
    shape = family_of(source.config).shape
    target = ModelShape(layers=3, hidden=29, query_heads=9, kv_heads=3, intermediate=24)
    values = random_gates(shape, target, UNBIASED.axes)
    gated = gated_logits(source, values, ids)
    source.config = written_config(source.config, "mistral")
    with torch.no_grad():
        torch.testing.assert_close(gated, carved_of(source, values)(ids).logits, rtol=0, atol=1e-10)


def test_model_written_as_what_it_is_keeps_its_config():
    config = toy_config(UNBIASED)
    assert written_config(config, "source") is config


@pytest.mark.parametrize("bias", ["attention_bias", "mlp_bias"])
def test_llama_with_biases_is_not_written_as_mistral(bias):
    with pytest.raises(FamilyError, match=f"{bias}=True: a mistral model has no biases"):
        written_config(toy_config(UNBIASED, **{bias: True}), "mistral")


def test_other_models_are_not_written_as_mistral():
    with pytest.raises(FamilyError, match="model_type='qwen2'"):
        written_config(form_of("qwen2").config(), "mistral")
