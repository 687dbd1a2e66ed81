"""Toy models in which every weight matters: large initial values, norms far from 1, biases that are not 0."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from shear_lit.models.family import Family
from shear_lit.models.registry import carved_config, family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.pruning.constraints import GateValues
from shear_lit.theory.shape import Axis, ModelShape

VOCABULARY = 61  # no other size of a toy model: a dimension of this size is the vocabulary


@dataclass(frozen=True)
class Variant:
    """The switches of the llama type that change its tensors."""

    grouped: bool
    tied: bool
    biased: bool

    def __str__(self) -> str:
        heads = "gqa" if self.grouped else "mha"
        return f"{heads}-{'tied' if self.tied else 'untied'}-{'biases' if self.biased else 'no_biases'}"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that can shrink: a group of one query head cannot."""
        return tuple(axis for axis in Axis if self.grouped or axis is not Axis.QUERY_HEADS)


VARIANTS = [Variant(*switches) for switches in itertools.product((True, False), repeat=3)]
SOME_VARIANTS = [Variant(True, True, False), Variant(False, False, True)]

TARGET = {
    True: ModelShape(layers=2, hidden=36, query_heads=4, kv_heads=2, intermediate=24),
    False: ModelShape(layers=2, hidden=36, query_heads=4, kv_heads=4, intermediate=24),
}


def toy_config(variant: Variant = SOME_VARIANTS[0], **changes: object) -> LlamaConfig:
    """Four blocks whose head size is not hidden / heads, with rotary and norm constants that are not the defaults."""
    entries = {
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": 12 if variant.grouped else 6,
        "num_key_value_heads": 4 if variant.grouped else 6,
        "head_dim": 6,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "tie_word_embeddings": variant.tied,
        "attention_bias": variant.biased,
        "mlp_bias": variant.biased,
        "initializer_range": 0.1,
        "attn_implementation": "sdpa",
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    return LlamaConfig(**{**entries, **changes})


def toy_model(config: LlamaConfig, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> LlamaForCausalLM:
    """A stock model with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return cast_parameters(model, dtype)


def cast_parameters(model: LlamaForCausalLM, dtype: torch.dtype) -> LlamaForCausalLM:
    """``model.to(dtype)`` without the rotary buffers, which a stock model computes in float32 in every dtype."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def toy_ids(*, sequences: int = 2, length: int = 11, seed: int = 0) -> Tensor:
    """Random token ids, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (sequences, length), generator=generator)


def shrunk(source: ModelShape, target: ModelShape, axes: tuple[Axis, ...]) -> ModelShape:
    """``source`` with the sizes of ``target`` on ``axes`` only."""
    sizes = {axis: (target if axis in axes else source).units(axis) for axis in Axis}
    query_heads = sizes[Axis.QUERY_HEADS] * sizes[Axis.KV_HEADS]
    others = {axis.value: size for axis, size in sizes.items() if axis is not Axis.QUERY_HEADS}
    return ModelShape(**others, query_heads=query_heads)


def random_gates(
    source: ModelShape,
    target: ModelShape,
    axes: tuple[Axis, ...],
    *,
    soft: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
) -> GateValues:
    """Gates that keep random units, each row its own, exactly as many as ``target`` has; soft ones lie in (0.2, 1)."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for axis in axes:
        shape = source.gate_shape(axis)
        rank = torch.rand(shape, generator=generator).argsort(-1).argsort(-1)
        gates = torch.rand(shape, generator=generator, dtype=torch.float64) * 0.8 + 0.2 if soft else 1.0
        values[axis] = torch.where(rank < target.units(axis), gates, 0.0).to(dtype)
    return values


def gated_logits(model: LlamaForCausalLM, values: GateValues, ids: Tensor) -> Tensor:
    """The logits of the live model under gates."""
    attached = attach(model, family_of(model.config))
    attached.set(values)
    try:
        with torch.no_grad():
            return model(ids).logits
    finally:
        attached.detach()


def carved_model(
    model: LlamaForCausalLM,
    values: GateValues,
    *,
    family: Family | None = None,
    dtype: torch.dtype = torch.float64,
) -> LlamaForCausalLM:
    """A fresh stock model of the smaller config, filled with the carved tensors."""
    family = family or family_of(model.config)
    tensors = carve(dict(model.named_parameters()), family, values)
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    config = carved_config(model.config, kept_units(values, family.shape).shape)
    config._attn_implementation = model.config._attn_implementation
    small = cast_parameters(LlamaForCausalLM(config).eval(), dtype)
    small.load_state_dict(tensors, strict=True)
    return small


def carved_logits(
    model: LlamaForCausalLM, values: GateValues, ids: Tensor, *, family: Family | None = None
) -> Tensor:
    """The logits of the model that the gates leave."""
    with torch.no_grad():
        return carved_model(model, values, family=family, dtype=model.dtype)(ids).logits


def float64_norm(self: LlamaRMSNorm, stream: Tensor) -> Tensor:
    """The stock norm without its detour through float32."""
    mean_square = stream.pow(2).mean(-1, keepdim=True)
    return self.weight * (stream * torch.rsqrt(mean_square + self.variance_epsilon))


def tables_with_one_carry_less(family: Family) -> Iterator[tuple[str, Family]]:
    """Every table in which one tensor does not carry its gates along one dimension."""
    for index, cut in enumerate(family.cuts):
        if cut.carries:
            broken = replace(cut, carries=())
            cuts = (*family.cuts[:index], broken, *family.cuts[index + 1 :])
            yield f"{cut.tensor} along {cut.dim}", replace(family, cuts=cuts)


def linear_modules(model: nn.Module) -> list[str]:
    """The names of all linear layers."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
