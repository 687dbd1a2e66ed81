"""Parameters are counted from the table: against published figures and against live models."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shear_lit.models.registry import carved_config, family_of, parameter_count
from shear_lit.theory.shape import ModelShape
from tests.toy_models import TARGET, VARIANTS, carved_model, random_gates, shrunk, toy_config, toy_model

LLAMA2_7B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    vocab_size=32000,
    tie_word_embeddings=False,
)
SMOLLM2_135M = LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
)
PAPER_SHAPES = {
    "1.3B": ModelShape(layers=24, hidden=2048, query_heads=16, kv_heads=16, intermediate=5504),
    "2.7B": ModelShape(layers=32, hidden=2560, query_heads=20, kv_heads=20, intermediate=6912),
    "370M": ModelShape(layers=24, hidden=1024, query_heads=8, kv_heads=8, intermediate=2816),
}
DEMO_SHAPE = ModelShape(layers=24, hidden=480, query_heads=6, kv_heads=2, intermediate=1280)


def count_on_meta(config: LlamaConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in LlamaForCausalLM(config).parameters())


def test_sources_have_their_published_counts():
    assert parameter_count(LLAMA2_7B) == 6_738_415_616
    assert parameter_count(SMOLLM2_135M) == 134_515_008


@pytest.mark.parametrize(
    ("config", "shape", "published"),
    [
        (LLAMA2_7B, PAPER_SHAPES["1.3B"], 1_345_423_360),
        (LLAMA2_7B, PAPER_SHAPES["2.7B"], 2_701_560_320),
        (LLAMA2_7B, PAPER_SHAPES["370M"], 373_867_520),
        (SMOLLM2_135M, DEMO_SHAPE, 79_649_760),
    ],
    ids=["1.3B", "2.7B", "370M", "demo"],
)
def test_targets_have_the_count_of_a_fresh_stock_model(config, shape, published):
    family_of(config).check_target(shape)
    assert parameter_count(config, shape) == published
    assert count_on_meta(carved_config(config, shape)) == published


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_count_of_every_axis_alone_and_of_all_is_that_of_the_carved_model(variant):
    model = toy_model(toy_config(variant))
    source = family_of(model.config).shape
    for axes in [*((axis,) for axis in variant.axes), variant.axes]:
        target = shrunk(source, TARGET[variant.grouped], axes)
        small = carved_model(model, random_gates(source, target, axes))
        live = sum(parameter.numel() for parameter in small.parameters())
        assert parameter_count(model.config, target) == live < parameter_count(model.config)
