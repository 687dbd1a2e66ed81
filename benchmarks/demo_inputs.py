"""The demo's source and its prepared text, for benchmarks."""

from pathlib import Path

from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.demo.source import fetch_source
from shear_lit.commands.demo.texts import fetch_texts
from shear_lit.commands.prepare import prepare


def write_demo_inputs(work: Path) -> tuple[Path, Path]:
    """The source's directory, and that of its text in sequences of 128 tokens, prepared under ``work`` once."""
    cache, data = default_cache(), work / "data"
    source = fetch_source(cache)
    if not data.is_dir():
        texts = {domain: str(file) for domain, file in fetch_texts(cache).items()}
        prepare(domains=texts, tokenizer=str(source), output=str(data), sequence_length=128)
    return source, data
