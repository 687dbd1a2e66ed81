"""Tiny LLaMA models, tokenizers and checkpoints of every kind, for tests."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from shear_lit.models.huggingface import source_fingerprint
from shear_lit.models.llama import llama
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training.checkpoints import CheckpointFacts
from shear_lit.training.shards import save_shards

VOCABULARY = 50
TARGET = ModelShape(layers=2, hidden=24, query_heads=2, kv_heads=1, intermediate=20)
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
LICENCE = "You may do as you like.\n"


def config(*, tied: bool = True, kv_heads: int = 2, query_heads: int = 4) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=query_heads,
        num_key_value_heads=kv_heads,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )


def model(settings: LlamaConfig, seed: int = 0):
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(settings).eval()
    with torch.no_grad():  # norms that are all 1 would hide mistakes
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return network


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{index}": index for index in range(VOCABULARY - 1)} | {"<unk>": VOCABULARY - 1}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_source(directory: Path, settings: LlamaConfig, *, dtype: torch.dtype = torch.float32):
    """A source model as a user has it: weights, tokenizer, chat template, licence, card, generation config."""
    network = model(settings).to(dtype)
    network.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    (directory / "LICENSE").write_text(LICENCE)
    (directory / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n")
    (directory / "modeling_custom.py").write_text("raise RuntimeError('never run')\n")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "max_length": 33}))
    return network


def log_alpha(settings: LlamaConfig, axes: tuple[Axis, ...] = tuple(Axis)) -> dict[Axis, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = llama(settings).shape
    return {axis: torch.randn(shape.gate_shape(axis), generator=generator) * 2 for axis in axes}


def facts(
    settings: LlamaConfig, source: Path, target: ModelShape | None = TARGET, **changes
) -> CheckpointFacts:
    values = dict(
        source=str(source),
        source_fingerprint=source_fingerprint(str(source)),
        config=settings.to_dict(),
        target=target,
        axes=tuple(Axis) if target else (),
        step=7,
        tokens=1234,
        domains={"wiki": {}, "code": {}},
        losses={"wiki": 2.5, "code": 1.25},
    )
    return CheckpointFacts(**values | changes)


def checkpoint(network, known: CheckpointFacts, gates: dict[Axis, torch.Tensor]) -> dict:
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {f"gates.{axis.value}": rows for axis, rows in gates.items()}
    if gates:
        state |= {f"multipliers.{name}": torch.zeros(len(gates)) for name in ("first", "second")}
    return {
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "global_step": known.step,
        "shear_lit": known.to_entry(),
    }


def write_checkpoint(path: Path, content: dict) -> Path:
    """One file, or (a path without suffix) a directory of shards, as the two strategies write them."""
    if path.suffix:
        torch.save(content, path)
        return path
    content = dict(content)
    state = {"state_dict": content.pop("state_dict"), "optimizer_0": content.pop("optimizer_states")[0]}
    save_shards(state, path, content, writes_meta=True, no_dist=True)
    return path
