"""Which targets are refused, with what message, and what the config of a carved model keeps."""

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError

from shear_lit.models.registry import carved_config, family_of
from shear_lit.theory.shape import ModelShape, ShapeError
from tests.toy_models import TARGET, VARIANTS, toy_config

GQA = VARIANTS[0]
SOURCE = family_of(toy_config(GQA)).shape
"""hidden=48, query_heads=12, kv_heads=4 (3 query heads per KV head), intermediate=40, layers=4."""


def refusal(**sizes: int) -> str:
    with pytest.raises(ShapeError) as error:
        family_of(toy_config(GQA)).check_target(ModelShape(**{**SOURCE.to_dict(), **sizes}))
    return str(error.value)


def test_hidden_that_is_no_multiple_of_the_heads_is_refused_before_the_stock_config_does():
    message = refusal(hidden=40)
    assert "target.hidden=40" in message
    assert "query_heads=12" in message
    assert "multiple of the attention heads" in message
    assert "Use hidden=36 or 48." in message
    for repaired in (36, 48):
        family_of(toy_config(GQA)).check_target(ModelShape(**{**SOURCE.to_dict(), "hidden": repaired}))


def test_stock_config_refuses_what_the_shape_rule_refuses():
    """Why the rule exists; when the stock class takes such a shape, the rule can go."""
    entries = toy_config(GQA).to_dict() | {"hidden_size": 40}
    with pytest.raises(
        StrictDataclassClassValidationError, match="multiple of the number of attention heads"
    ):
        type(toy_config(GQA)).from_dict(entries)


@pytest.mark.parametrize(("axis", "larger"), [("layers", 5), ("hidden", 60), ("intermediate", 41)])
def test_target_that_grows_is_refused(axis, larger):
    message = refusal(**{axis: larger})
    assert f"target.{axis}={larger}" in message
    assert "only removes units" in message
    assert f"Use {axis}={SOURCE.to_dict()[axis]} or less." in message


def test_more_kv_heads_than_the_source_has_are_refused():
    message = refusal(kv_heads=6, query_heads=12)
    assert "target.kv_heads=6" in message
    assert "Use kv_heads=4 or less." in message


def test_more_query_heads_per_group_than_the_source_has_are_refused():
    message = refusal(kv_heads=2, query_heads=8)
    assert "target.query_heads=8" in message
    assert "4 per KV head, and the source has 3" in message
    assert "only removes units" in message
    assert "Use query_heads=6 or less." in message


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(
        ShapeError, match=r"query_heads=7 cannot be split over kv_heads=2.*Use query_heads=6 or 8\."
    ):
        ModelShape(layers=1, hidden=12, query_heads=7, kv_heads=2, intermediate=4)


def test_target_equal_to_the_source_is_taken():
    family_of(toy_config(GQA)).check_target(SOURCE)


def test_carved_config_refuses_what_the_stock_class_refuses():
    with pytest.raises(ShapeError, match="multiple of the attention heads"):
        carved_config(toy_config(GQA), ModelShape(**{**SOURCE.to_dict(), "hidden": 40}))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_carved_config_changes_the_sizes_and_nothing_else(variant):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    source = toy_config(variant, rope_parameters=rope, dtype="bfloat16")
    before = source.to_dict()
    target = TARGET[variant.grouped]
    carved = carved_config(source, target)
    assert source.to_dict() == before
    assert family_of(carved).shape == target
    assert carved.head_dim == source.head_dim == 6
    sizes = {
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
    }
    after = carved.to_dict()
    assert {key for key in before if before[key] != after.get(key)} == sizes
    assert after["rope_parameters"] == rope
    assert after["rms_norm_eps"] == 1e-2
    assert after["tie_word_embeddings"] is variant.tied


def test_carved_config_forgets_the_file_that_the_source_came_from():
    source = toy_config(quantization_config={"quant_method": "gguf"}, name_or_path="some/place")
    assert source.to_dict()["_name_or_path"] == "some/place"
    carved = carved_config(source, TARGET[True])
    assert not carved.to_dict().get("_name_or_path")
    assert getattr(carved, "quantization_config", None) is None


def test_carved_config_keeps_an_implicit_head_size_explicit():
    """Of hidden=48 and 12 heads, and so 4; without the entry the smaller model would have 36 / 4 = 9."""
    carved = carved_config(toy_config(head_dim=None), TARGET[True])
    assert carved.head_dim == 4
