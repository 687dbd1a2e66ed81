"""Made-up questions of the three kinds, and a small random model whose tokenizer knows every byte."""

import json
import random
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

WORDS = ["stone", "river", "glass", "wheat", "north", "seven", "amber", "cloud", "paper", "light"]
LINES = {
    "choices": "task: choices\nkind: multiple_choice\ndata: choices.jsonl\n",
    "choices-shots": "task: choices-shots\nkind: multiple_choice\ndata: choices.jsonl\nshots: 2\n"
    "examples: examples.jsonl\nmetric: acc_norm\n",
    "letters": "task: letters\nkind: multiple_choice\ndata: letters.parquet\n",
    "last-word": "task: last-word\nkind: cloze\ndata: texts.jsonl\n",
    "last-word-shots": "task: last-word-shots\nkind: cloze\ndata: texts.jsonl\nshots: 1\n",
    "answers": "task: answers\nkind: generation\ndata: sums.jsonl\nlongest: 6\n",
    "pattern-shots": "task: pattern-shots\nkind: generation\ndata: sums.jsonl\nshots: 2\nlongest: 6\n"
    "pattern: '#### (-?[0-9]+)'\n",
}
"""Tasks in the short form, by name."""


def write_questions(folder: Path) -> None:
    numbers = random.Random(5)

    def some(count):
        return " ".join(numbers.choices(WORDS, k=count))

    def choice():
        return {"question": some(4), "choices": [some(1), some(2), some(3)], "answer": numbers.randrange(3)}

    rows = {
        "choices": [choice() for _ in range(12)],
        "examples": [choice() for _ in range(6)],
        "texts": [{"text": some(numbers.randint(3, 9))} for _ in range(10)],
        "sums": [{"question": some(3), "answer": f"{some(2)} #### {numbers.randrange(9)}"} for _ in range(6)],
    }
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    import pyarrow
    import pyarrow.parquet

    letters = [{**choice(), "answer": "ABC"[number % 3]} for number in range(7)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(letters), folder / "letters.parquet")
    for name, lines in LINES.items():
        (folder / f"{name}.yaml").write_text(lines)
    suite = {
        "suite": "mine",
        "average": ["choices", "last-word"],
        "tasks": [f"{name}.yaml" for name in LINES],
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def write_model(directory: Path, config=None, *, seed: int = 0) -> str:
    torch.manual_seed(seed)
    config = config or LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return str(directory)
