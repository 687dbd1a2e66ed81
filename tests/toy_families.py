"""Toy models of every family, in every form of it that has other tensors or another arithmetic.

Their constants are not the defaults, their blocks differ, and what is kept of them is not a prefix: an entry of the
config that is lost or given to another block shows in the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.smollm3.modeling_smollm3 import SmolLM3RMSNorm

from shear_lit.models.family import Family
from shear_lit.models.registry import carved_config, family_of
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.pruning.constraints import GateValues
from shear_lit.theory.shape import Axis, ModelShape
from tests.toy_models import VOCABULARY, cast_parameters, random_gates, shrunk

LAYERS, HIDDEN, INTERMEDIATE, HEAD_SIZE = 4, 36, 20, 8
KEPT_LAYERS = (1, 3)
WINDOW = 4
"""Shorter than what the tests feed."""

RMS_NORMS = (
    *(LlamaRMSNorm, MistralRMSNorm, Olmo2RMSNorm, Phi3RMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, SmolLM3RMSNorm),
)
ONE_PLUS_NORMS = (Gemma2RMSNorm, Gemma3RMSNorm)


@dataclass(frozen=True)
class Form:
    """One form of a family."""

    config_class: type[PretrainedConfig]
    grouped: bool
    tied: bool
    entries: dict[str, object] = field(default_factory=dict, hash=False)
    wide_heads: bool = False
    """Whether the heads together are as wide as the residual stream."""

    def __str__(self) -> str:
        heads = "gqa" if self.grouped else "mha"
        kind = "-".join(name for name, value in self.entries.items() if value is True)
        return "-".join(filter(None, [self.family, heads, "tied" if self.tied else "untied", kind]))

    @property
    def family(self) -> str:
        return self.config_class.model_type

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in Axis if self.grouped or axis is not Axis.QUERY_HEADS)

    @property
    def axes_alone(self) -> list[tuple[Axis, ...]]:
        """The smallest sets of axes that can shrink by themselves."""
        if self.wide_heads:
            return [(Axis.LAYERS,), (Axis.HIDDEN, Axis.KV_HEADS), (Axis.INTERMEDIATE,)]
        return [(axis,) for axis in self.axes]

    @property
    def target(self) -> ModelShape:
        heads = 2
        hidden = heads * HEAD_SIZE if self.wide_heads else 24
        return ModelShape(layers=2, hidden=hidden, query_heads=heads, kv_heads=heads, intermediate=12)

    def config(self, **changes: object) -> PretrainedConfig:
        heads = 6 if self.grouped else 4
        entries = {
            "hidden_size": heads * HEAD_SIZE if self.wide_heads else HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": heads,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "tie_word_embeddings": self.tied,
            "initializer_range": 0.1,
            "bos_token_id": 1,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        if not self.wide_heads:
            entries |= {
                "num_key_value_heads": 3 if self.grouped else 4,
                "head_dim": HEAD_SIZE,
                "rms_norm_eps": 1e-2,
            }
        return self.config_class(**{**entries, **self.entries, **changes})

    def gates(
        self,
        axes: tuple[Axis, ...] | None = None,
        *,
        soft: bool = True,
        dtype: torch.dtype = torch.float64,
        seed: int = 1,
    ) -> GateValues:
        """Gates that leave the target on ``axes``, and of the blocks those in ``KEPT_LAYERS``."""
        axes = axes or self.axes
        source = family_of(self.config()).shape
        values = random_gates(
            source, shrunk(source, self.target, axes), axes, soft=soft, dtype=dtype, seed=seed
        )
        if Axis.LAYERS in values:
            kept = values[Axis.LAYERS][values[Axis.LAYERS] != 0]
            values[Axis.LAYERS] = torch.zeros(source.layers, dtype=dtype)
            values[Axis.LAYERS][list(KEPT_LAYERS)] = kept
        return values


def _rope(theta: float, **entries: object) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": theta, **entries}


_LLAMA3 = _rope(500.0) | {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_SLIDING, _FULL = "sliding_attention", "full_attention"
_QWEN = {
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "max_window_layers": 2,
    "rope_parameters": _rope(500.0),
}
_GEMMA = {
    "sliding_window": WINDOW,
    "layer_types": [_SLIDING, _FULL, _FULL, _SLIDING],
    "query_pre_attn_scalar": 10,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
}
_GEMMA3 = {
    **_GEMMA,
    "attn_logit_softcapping": None,
    "rope_parameters": {_SLIDING: _rope(50.0), _FULL: _rope(500.0)},
}
_PHI3 = {"sliding_window": WINDOW, "rope_parameters": _rope(500.0, partial_rotary_factor=0.5)}
_NEOX = {"layer_norm_eps": 1e-2, "rope_parameters": _rope(500.0, partial_rotary_factor=0.5)}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}
# Without norms before the feed-forward layers, their outputs would be lost beside the constant of those after them.
_OLMO2 = {"initializer_range": 0.4, "rope_parameters": _rope(500.0)}
_BIASES = {"attention_bias": True}

FORMS = (
    Form(LlamaConfig, True, True, {"rope_parameters": _LLAMA3}),
    Form(LlamaConfig, False, False, {"rope_parameters": _LLAMA3, **_BIASES, "mlp_bias": True}),
    *(
        Form(MistralConfig, *heads, {"sliding_window": WINDOW, "rope_parameters": _rope(500.0)})
        for heads in ((True, True), (True, False), (False, True), (False, False))
    ),
    *(
        Form(Qwen2Config, *heads, _QWEN)
        for heads in ((True, True), (True, False), (False, True), (False, False))
    ),
    Form(Qwen3Config, True, True, _QWEN),
    Form(Qwen3Config, True, False, {**_QWEN, **_BIASES}),
    Form(Qwen3Config, False, True, _QWEN),
    Form(Qwen3Config, False, False, _QWEN),
    Form(SmolLM3Config, True, True, {"no_rope_layers": [1, 0, 0, 1], "rope_parameters": _rope(500.0)}),
    Form(
        SmolLM3Config,
        True,
        False,
        {
            "no_rope_layers": [1, 0, 0, 1],
            "rope_parameters": _rope(500.0),
            "use_sliding_window": True,
            "sliding_window": WINDOW,
        },
    ),
    Form(SmolLM3Config, False, True, {"no_rope_layers": [1, 0, 0, 1], "rope_parameters": _rope(500.0)}),
    Form(
        SmolLM3Config,
        False,
        False,
        {"no_rope_layers": [1, 0, 0, 1], "rope_parameters": _rope(500.0), **_BIASES, "mlp_bias": True},
    ),
    Form(Olmo2Config, True, True, _OLMO2),
    Form(Olmo2Config, True, False, {**_OLMO2, **_BIASES}),
    Form(Olmo2Config, False, True, _OLMO2),
    Form(Olmo2Config, False, False, _OLMO2),
    *(Form(Gemma2Config, *heads, _GEMMA) for heads in ((True, True), (False, True), (False, False))),
    Form(Gemma2Config, True, False, {**_GEMMA, **_BIASES}),
    *(Form(Gemma3TextConfig, *heads, _GEMMA3) for heads in ((True, True), (False, True), (False, False))),
    Form(Gemma3TextConfig, True, False, {**_GEMMA3, **_BIASES}),
    Form(GPTNeoXConfig, False, True, {**_NEOX, "use_parallel_residual": True}, wide_heads=True),
    Form(GPTNeoXConfig, False, False, {**_NEOX, "use_parallel_residual": True}, wide_heads=True),
    Form(GPTNeoXConfig, False, False, {**_NEOX, "use_parallel_residual": False}, wide_heads=True),
    Form(
        GPTNeoXConfig,
        False,
        False,
        {**_NEOX, "attention_bias": False, "hidden_act": "relu"},
        wide_heads=True,
    ),
    *(
        Form(Phi3Config, *heads, _PHI3)
        for heads in ((True, True), (True, False), (False, True), (False, False))
    ),
)
"""Every family with and without groups and with and without a tied head, as far as they exist; biases now and then."""

ONE_OF_EACH = tuple({form.family: form for form in FORMS}.values())
"""The last form of every family."""


def model_of(
    form: Form, *, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: object
) -> PreTrainedModel:
    """A stock model with random weights in which every weight matters; its constants are those of a float32 model."""
    return weighed(form.config(**changes), dtype=dtype, seed=seed)


def weighed(
    config: PretrainedConfig, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> PreTrainedModel:
    """The stock model of ``config``, whose norms and biases are random, too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return cast_parameters(model, dtype)


def carved_of(
    model: PreTrainedModel,
    values: GateValues,
    *,
    family: Family | None = None,
    dtype: torch.dtype = torch.float64,
    kept_layers: list[int] | None = None,
) -> PreTrainedModel:
    """A fresh stock model of the smaller config, filled with the carved tensors."""
    family = family or family_of(model.config)
    tensors = carve(dict(model.named_parameters()), family, values)
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors[f"{family.embedding}.weight"]
    kept = kept_units(values, family.shape)
    config = carved_config(model.config, kept.shape, kept_layers=kept_layers or kept.layers.tolist())
    small = cast_parameters(AutoModelForCausalLM.from_config(config).eval(), dtype)
    small.load_state_dict(tensors, strict=True)
    return small


def one_plus_float64(self: nn.Module, x: Tensor) -> Tensor:
    """Gemma's norm without its detour through float32."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


def softmax_of_its_dtype(softmax: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Softmax that does not narrow float64 to the float32 that eager attention asks for."""

    def wide(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return softmax(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype)

    return wide
