"""Does a repair take the memory that ``memory_of_repair`` counts? On a random model of 1.2 GB in float32.

python benchmarks/repair_memory.py            # about 3 minutes, 4 GB
"""

import json
import resource

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from machine import machine
from shear_lit.models.huggingface import build_model
from shear_lit.models.registry import carved_config, family_of
from shear_lit.pruning.carve import carve, kept_units
from shear_lit.pruning.repair import repair
from shear_lit.pruning.repair.memory import memory_of_repair
from shear_lit.pruning.starts import ranked_gates
from shear_lit.ranking.importance import Passage
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import Axis, ModelShape

CONFIG = LlamaConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=14,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=64,
    vocab_size=32_000,
    tie_word_embeddings=False,
)
TARGET = ModelShape(layers=10, hidden=768, query_heads=12, kv_heads=6, intermediate=3072)
ROWS, LENGTH, PASSAGES = 4, 512, 4


def peak() -> int:
    """Bytes of memory that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Build, cut, repair, and compare."""
    before = peak()
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval().requires_grad_(requires_grad=False)
    family = family_of(CONFIG)
    gates = ranked_gates(keyed_uniform(family.shape, tuple(Axis), key=(1, 0, 0)), family.shape, TARGET)
    kept = kept_units(gates, family.shape)
    config = carved_config(CONFIG, kept.shape, kept_layers=kept.layers.tolist())
    small = build_model(
        config, carve(dict(model.named_parameters()), family, gates), dtype=torch.float32
    ).eval()
    ids = torch.randint(0, CONFIG.vocab_size, (PASSAGES, ROWS, LENGTH))
    text = [Passage({"input_ids": rows, "labels": rows}, ROWS * at) for at, rows in enumerate(ids)]
    repair(model, small, family, family_of(config), kept, text, device=torch.device("cpu"))
    found = peak() - before
    counted = memory_of_repair(CONFIG, TARGET, tokens=ids.numel(), batch_tokens=ROWS * LENGTH).host
    weights = 4 * sum(part.numel() for part in model.parameters())
    print(
        f"source {weights / 1e9:.2f} GB: counted {counted / 1e9:.2f} GB, taken {found / 1e9:.2f} GB "
        f"({found / counted - 1:+.1%})\n{json.dumps(machine())}"
    )


if __name__ == "__main__":
    main()
