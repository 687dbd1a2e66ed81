"""Writes runs with an earlier version of the package, small enough to be kept, for tests that go on from them.

    python -m tests.training.old_checkpoints SRC_OF_THAT_VERSION tests/training/old/COMMIT.tar.xz

The archive has a source, prepared data, and a run of each kind with its checkpoints of steps 2 and 4.
"""

import argparse
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.toy import CONFIGS, DOMAINS, trained_tokenizer, write_domain, write_source

# As small as it can be.
SIZES = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
TARGET = dict(layers=1, hidden=6, query_heads=2, kv_heads=1, intermediate=4)
PRUNE = [f"--model.pruning.target.{axis}={size}" for axis, size in TARGET.items()]
EXACT = ["--model.pruning.constraint=exact", "--model.pruning.initial_log_alpha=4.605170185988092"]
SHARDS = ["--trainer.strategy=fsdp2", "--trainer.devices=2"]
RUNS = {
    "pretrain": ("pretrain", []),
    "pretrain-shards": ("pretrain", SHARDS),
    "lagrangian": ("prune", PRUNE),
    "lagrangian-shards": ("prune", [*PRUNE, *SHARDS]),
    "exact": ("prune", [*PRUNE, *EXACT]),
    "exact-shards": ("prune", [*PRUNE, *EXACT, *SHARDS]),
}
"""What is run, by name: the configuration, and what is said besides."""
LENGTHS = ["--trainer.max_steps=4", "--data.mixture.update_every_steps=2", "--trainer.logger=false"]


def arguments(root: Path, name: str) -> list[str]:
    """The command line of a run, of any version."""
    stage, flags = RUNS[name]
    return [
        "fit",
        f"--config={CONFIGS / 'toy' / f'{stage}.yaml'}",
        *flags,
        *LENGTHS,
        f"--model.source={root / 'source'}",
        f"--data.directory={root / 'data'}",
        f"--trainer.default_root_dir={root / name}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("src", type=Path, help="src of the version that writes")
    parser.add_argument("archive", type=Path, help="the .tar.xz to write")
    options = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(options.src.resolve()), "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "shear_lit", *words], env=environment, check=True)

    with tempfile.TemporaryDirectory() as folder:
        root, numbers = Path(folder), random.Random(3)
        raw = {domain: str(write_domain(root / f"{domain}.jsonl", numbers)) for domain in DOMAINS}
        write_source(root / "source", trained_tokenizer(list(raw.values())), seed=2, kv_heads=1, **SIZES)
        domains = [f"--domains.{name}={file}" for name, file in raw.items()]
        output = [f"--tokenizer={root / 'source'}", f"--output={root / 'data'}", "--sequence_length=24"]
        command("prepare", *domains, *output, "--workers=1")
        for name in RUNS:
            command(*arguments(root, name))
        with tarfile.open(options.archive, "w:xz") as archive:
            for name in ("source", "data", *RUNS):
                archive.add(
                    root / name, name, filter=lambda entry: None if "events.out" in entry.name else entry
                )


if __name__ == "__main__":
    main()
