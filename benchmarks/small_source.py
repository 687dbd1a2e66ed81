"""A source of 2.7 M parameters that every machine can train: on 20 M tokens of the Python files that it has.

python benchmarks/small_source.py --work runs/small --minutes 3      # again until it says that it is done

It takes about an hour of two cores, or two minutes of a GPU (``--accelerator cuda``).
"""

import argparse
import hashlib
import json
import sys
import sysconfig
import tokenize
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shear_lit import cli
from shear_lit.commands.export import export
from shear_lit.commands.prepare import prepare
from shear_lit.data.preparing.settings import SplitShares
from shear_lit.training.checkpoints import CheckpointError, read_facts
from shear_lit.training.run_checkpoints import latest_checkpoint

DOMAINS = ("library", "packages", "tests")
PACKAGES = ("torch", "transformers", "lightning")
"""What is read of what shear_lit needs."""
MOST_BYTES = 20_000_000
"""Of a domain, as JSON."""
PROPORTIONS = {"library": 0.3, "packages": 0.4, "tests": 0.3}
LENGTH, VOCABULARY, GLOBAL_BATCH, STEPS = 128, 2048, 64, 2500
SHAPE = dict(
    hidden_size=160,
    intermediate_size=448,
    num_hidden_layers=8,
    num_attention_heads=10,
    num_key_value_heads=5,
    head_dim=16,
)


def write_texts(folder: Path) -> dict[str, str]:
    """A file for each domain: of whole source files, until it has as much as is read of it."""
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    own = [path for path in library.glob("**/*.py") if "site-packages" not in path.parts]
    tests = [path for path in own if {"test", "tests", "idle_test"} & set(path.parts)]
    paths = {
        "library": set(own) - set(tests),
        "tests": tests,
        "packages": [path for package in PACKAGES for path in sorted((packages / package).glob("**/*.py"))],
    }
    files = {}
    folder.mkdir(parents=True, exist_ok=True)
    for domain, found in paths.items():
        file = folder / f"{domain}.jsonl"
        # Spread over all of them, in the same order everywhere.
        by_hash = sorted(found, key=lambda path: hashlib.sha256(str(path.name).encode()).digest())
        with file.open("w", encoding="utf-8") as out:
            for path in by_hash:
                if out.tell() > MOST_BYTES:
                    break
                try:
                    with tokenize.open(path) as stream:
                        text = stream.read()
                except (SyntaxError, UnicodeDecodeError):
                    continue
                for start in range(0, len(text), 6000):
                    if text[start : start + 6000].strip():
                        out.write(json.dumps({"text": text[start : start + 6000]}) + "\n")
        files[domain] = str(file)
    return files


def write_untrained(directory: Path, files: dict[str, str]) -> None:
    """A random model, and a byte-level BPE tokenizer trained on the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lines = (line for file in files.values() for line in Path(file).read_text(encoding="utf-8").splitlines())
    texts = (json.loads(line)["text"] for line in lines)
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        directory
    )


def build(work: Path, minutes: float, accelerator: str = "cpu") -> bool:
    """Go on with making ``work/source`` for at most ``minutes``; whether it is there."""
    if (work / "source").is_dir():
        return True
    if not (work / "data").is_dir():
        files = write_texts(work / "texts")
        write_untrained(work / "untrained", files)
        prepare(
            domains=files,
            tokenizer=str(work / "untrained"),
            output=str(work / "data"),
            sequence_length=LENGTH,
            shares=SplitShares(prune=0.25, pretrain=0.7, validation=0.05),
        )
    run = work / "source-run"
    # The time of the pieces before this one is counted in when a run is resumed.
    seconds = int(minutes * 60) * (1 + len(list(run.glob("config*.yaml"))))
    arguments = [
        "fit",
        f"--trainer.default_root_dir={run}",
        f"--trainer.accelerator={accelerator}",
        "--trainer.devices=1",
        f"--trainer.max_steps={STEPS}",
        f"--trainer.max_time=00:{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
        "--trainer.log_every_n_steps=50",
        "--trainer.enable_progress_bar=false",
        f"--model.source={work / 'untrained'}",
        "--model.pruning=null",
        "--model.optimizer.weights_learning_rate=3e-3",
        "--model.optimizer.warmup_steps=100",
        f"--data.directory={work / 'data'}",
        "--data.split=pretrain",
        f"--data.global_batch={GLOBAL_BATCH}",
        f"--data.micro_batch={GLOBAL_BATCH}",
        "--data.validation_sequences=64",
        f"--data.mixture.proportions={json.dumps(PROPORTIONS)}",
        "--data.mixture.rule=static",
        "--data.mixture.update_every_steps=500",
        "--checkpoint.every_steps=250",
        "--checkpoint.keep=1",
    ]
    if run.is_dir():
        arguments.append("--ckpt_path=last")
    cli.main(arguments)
    try:
        checkpoint = latest_checkpoint(run)
    except CheckpointError:
        return False
    if read_facts(checkpoint).step < STEPS:
        return False
    export(checkpoint, str(work / "source"))
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/small"))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--accelerator", default="cpu")
    options = parser.parse_args()
    done = build(options.work, options.minutes, options.accelerator)
    print("done" if done else "not yet: run again", file=sys.stderr)
