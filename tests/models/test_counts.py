"""Parameters are counted from the table: against published figures and against live models."""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

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


def sizes(hidden: int, intermediate: int, layers: int, heads: int, vocabulary: int, **more: int) -> dict:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        **more,
    }


PUBLISHED = {
    "Llama-2-7B": (LLAMA2_7B, 6_738_415_616),
    "SmolLM2-135M": (SMOLLM2_135M, 134_515_008),
    "Mistral-7B": (MistralConfig(**sizes(4096, 14336, 32, 32, 32000)), 7_241_732_096),
    "Qwen2.5-0.5B": (
        Qwen2Config(**sizes(896, 4864, 24, 14, 151936, num_key_value_heads=2), tie_word_embeddings=True),
        494_032_768,
    ),
    "Qwen3-0.6B": (
        Qwen3Config(**sizes(1024, 3072, 28, 16, 151936, num_key_value_heads=8), tie_word_embeddings=True),
        596_049_920,
    ),
    "SmolLM3-3B": (SmolLM3Config(**sizes(2048, 11008, 36, 16, 128256)), 3_075_098_624),
    "OLMo-2-1B": (Olmo2Config(**sizes(2048, 8192, 16, 16, 100352)), 1_484_916_736),
    "gemma-2-2b": (Gemma2Config(**sizes(2304, 9216, 26, 8, 256000)), 2_614_341_888),
    "gemma-3-1b": (
        Gemma3TextConfig(**sizes(1152, 6912, 26, 4, 262144, num_key_value_heads=1)),
        999_885_952,
    ),
    "pythia-70m": (GPTNeoXConfig(**sizes(512, 2048, 6, 8, 50304)), 70_426_624),
    "Phi-3-mini": (Phi3Config(**sizes(3072, 8192, 32, 32, 32064)), 3_821_079_552),
}


@pytest.mark.parametrize(("config", "published"), PUBLISHED.values(), ids=PUBLISHED)
def test_sources_have_their_published_counts(config, published):
    assert parameter_count(config) == published


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
