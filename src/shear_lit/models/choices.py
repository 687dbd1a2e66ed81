"""The choices that a user has about models, as types: nothing is imported for them, so that help is there at once."""

from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]
"""What the numbers of a saved model are stored in."""

Attention = Literal["eager", "sdpa", "flash_attention_2", "flex_attention"]
"""Which of transformers' attention implementations computes.

Where a model type has no ``sdpa`` (gemma2, which caps its scores), that stands for ``eager``, as in transformers.
"""

Device = Literal["auto", "cpu", "cuda", "mps"]
"""Where a model computes; ``auto``: a CUDA device if there is one, otherwise the CPU."""

WrittenAs = Literal["source", "mistral"]
"""The model type of what is cut: the source's, or another that computes the same."""

PresetName = Literal["sheared-llama-2.7b", "sheared-llama-1.3b", "sheared-llama-370m"]
"""Names of published shapes."""

AxisName = Literal["layers", "hidden", "kv_heads", "query_heads", "intermediate"]
"""What of a model can lose units."""

RepairParts = Literal["writers", "readers", "embedding", "norms"]
"""What of a cut is refitted, each with what stands before it; the last two only where the head is the embedding."""

REPAIR_TOKENS = 65_536
"""Tokens of prepared data that a cut is repaired on, where nothing is said (docs/repair.md)."""
GENERATED_FRACTION = 0.1
"""How many the source generates beside them, as a fraction of them."""

Criterion = Literal[
    "default",
    "fisher",
    "taylor",
    "activation",
    "weight",
    "random",
    "block_influence",
    "depth",
    "loss",
    "loss_window",
    "peak_to_peak",
    "reconstruction",
]
"""What orders the units of a model."""

KeptOfTeacher = Literal["top_k", "sampled"]
"""What is kept of a teacher's distribution: its most probable tokens and the mass outside, or tokens drawn from it."""
