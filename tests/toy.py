"""A run's model and data in miniature: what configs/toy reads."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shear_lit.data.preparing.prepare import PrepareSettings, prepare

CONFIGS = Path(__file__).parents[1] / "configs"
DOMAINS = ("code", "law", "wiki")
LENGTH = 24
SOURCES = {"gqa-tied": dict(tied=True, kv_heads=2), "mha-untied": dict(tied=False, kv_heads=8)}
TARGETS = {
    "gqa-tied": dict(layers=2, hidden=24, query_heads=2, kv_heads=1, intermediate=32),
    "mha-untied": dict(layers=2, hidden=24, query_heads=4, kv_heads=4, intermediate=32),
}


@dataclass(frozen=True)
class Toy:
    """Where the toy's parts lie."""

    root: Path

    def source(self, name: str = "gqa-tied") -> Path:
        return self.root / name

    @property
    def data(self) -> Path:
        return self.root / "data"

    def arguments(self, stage: str, run: Path, *, source: str = "gqa-tied") -> list[str]:
        """The arguments of a toy run in the directory ``run``."""
        arguments = [
            "fit",
            f"--config={CONFIGS / 'toy' / f'{stage}.yaml'}",
            f"--model.source={self.source(source)}",
            f"--data.directory={self.data}",
            f"--trainer.default_root_dir={run}",
        ]
        if stage == "prune":
            arguments += [f"--model.pruning.target.{axis}={size}" for axis, size in TARGETS[source].items()]
        return arguments


def write_toy(root: Path) -> Toy:
    """Write three domains of made-up words, a tokenizer trained on them, two models, and prepared data."""
    numbers = random.Random(0)
    files = {domain: str(write_domain(root / f"{domain}.jsonl", numbers)) for domain in DOMAINS}
    tokenizer = trained_tokenizer(list(files.values()))
    for name, shape in SOURCES.items():
        write_source(root / name, tokenizer, **shape)
    settings = PrepareSettings(
        domains=dict(files),
        tokenizer=str(root / "gqa-tied"),
        output=str(root / "data"),
        sequence_length=LENGTH,
    )
    prepare(settings)
    return Toy(root)


def write_domain(path: Path, numbers: random.Random) -> Path:
    words = ["".join(numbers.choices("abcdefghijklmnop", k=numbers.randint(2, 6))) for _ in range(40)]
    texts = (" ".join(numbers.choices(words, k=numbers.randint(20, 120))) for _ in range(160))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def trained_tokenizer(files: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train(files, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def write_source(
    directory: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int = 0,
    tied: bool = True,
    kv_heads: int = 2,
    **sizes: int,
) -> None:
    """A random llama with a tokenizer; ``sizes`` are entries of its config."""
    torch.manual_seed(seed)
    usual = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=8)
    config = LlamaConfig(
        **{**usual, **sizes},
        vocab_size=300,
        num_key_value_heads=kv_heads,
        head_dim=4,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
