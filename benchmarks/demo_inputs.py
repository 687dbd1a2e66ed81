"""The demo's source and its prepared text, for benchmarks."""

from pathlib import Path

from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.demo.source import fetch_source
from shear_lit.commands.demo.texts import fetch_texts
from shear_lit.commands.prepare import prepare
from shear_lit.data.preparing.settings import SplitShares


def write_demo_inputs(work: Path) -> tuple[Path, Path]:
    """The source's directory, and that of its text in sequences of 128 tokens, prepared under ``work`` once."""
    cache, data = default_cache(), work / "data"
    source = fetch_source(cache)
    if not data.is_dir():
        texts = {domain: str(file) for domain, file in fetch_texts(cache).items()}
        prepare(domains=texts, tokenizer=str(source), output=str(data), sequence_length=128)
    return source, data


def prepare_kinds(texts: Path, source: Path, data: Path, *, sequence_length: int) -> Path:
    """``data``: the .jsonl files of a directory, each a domain, prepared once, three fifths of them to rank on."""
    if not data.is_dir():
        prepare(
            domains={file.stem: str(file) for file in sorted(texts.glob("*.jsonl"))},
            tokenizer=str(source),
            output=str(data),
            sequence_length=sequence_length,
            shares=SplitShares(prune=0.6, pretrain=0.0, validation=0.4),
        )
    return data
