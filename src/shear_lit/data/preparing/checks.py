"""What is refused before any work: an output, settings, a tokenizer or a disk that a run cannot be met with."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import FORMAT, MANIFEST, Manifest
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.job import Job
from shear_lit.data.preparing.settings import CommonSettings
from shear_lit.data.text.sources import Source
from shear_lit.data.tokens.tokenizer import TextTokenizer

_BYTES_PER_TOKEN = 4  # of raw text, about: usual text has 3 to 5
_MOST_COMPRESSED = 3  # about


def earlier_manifest(output: Path) -> Manifest | None:
    """The manifest of the data that is there already, if there is any.

    Raises:
        DataError: it cannot be read, or something else is there.
    """
    if (output / MANIFEST).is_file():
        try:
            return read_manifest(output)
        except DataError as error:
            error.key = "output"
            raise
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(
            f"{str(output)!r} is not an empty directory, nor does it hold prepared data to which files could "
            "be added: nothing is ever overwritten. Choose another directory, or remove it.",
            key="output",
        )
    return None


def check_same_settings(earlier: Manifest, settings: CommonSettings, tokenizer: TextTokenizer) -> None:
    """Refuse to add to data that was made differently.

    Raises:
        DataError: a setting or the tokenizer differs.
    """
    if not tokenizer.is_of(earlier.tokenizer.fingerprint):
        raise DataError(
            f"{settings.tokenizer!r} (fingerprint {tokenizer.fingerprint[:12]}) is not the one that made what "
            f"is in output={settings.output!r}: {earlier.tokenizer.name!r} ({earlier.tokenizer.fingerprint[:12]}). "
            "Use that one, or prepare into another directory.",
            key="tokenizer",
        )
    keys = ["sequence_length", "prepend_bos", "append_eos", "text_field", "shares", "tokens"]
    for key in keys + (["packing", "split_special_tokens"] if earlier.format == FORMAT else []):
        asked, found = getattr(settings, key), getattr(earlier, key)
        asked = asdict(asked) if key in ("shares", "tokens") else asked
        if asked != found and (found or key not in ("text_field", "shares", "tokens")):
            raise DataError(
                f"{asked!r}: what is in output={settings.output!r} was prepared with {found!r}, and files "
                f"can only be added in the same way. Use {key}={found!r}, or prepare into another directory.",
                key=key,
            )


def check_special_tokens(settings: CommonSettings, tokenizer: TextTokenizer) -> None:
    """Refuse settings that want a token which the tokenizer does not have.

    Raises:
        DataError: it has none.
    """
    for wanted, token, key in (
        (settings.append_eos, tokenizer.eos_id, "append_eos"),
        (settings.prepend_bos, tokenizer.bos_id, "prepend_bos"),
    ):
        if wanted and token is None:
            raise DataError(
                f"true: tokenizer {settings.tokenizer!r} has no such token. Use --{key} false.", key=key
            )


def check_disk(output: Path, job: Job, sources: Sequence[Source]) -> None:
    """Refuse a disk without room for what is made of ``sources``.

    Raises:
        DataError: too little is free.
    """
    compressed = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".parquet")
    text = sum(s.bytes * (_MOST_COMPRESSED if s.name.endswith(compressed) else 1) for s in sources)
    there = sum(path.stat().st_size for path in job.spools.glob("*"))
    needed = 2 * text * job.dtype.itemsize // _BYTES_PER_TOKEN - there  # each token is spooled, then packed
    free = shutil.disk_usage(job.work).free
    if free < needed:
        raise DataError(
            f"{str(output)!r}: {free / 1e9:.2f} GB are free there, and {text / 1e9:.2f} GB of text may take "
            f"{needed / 1e9:.2f} GB while it is prepared. Make space, or choose a directory on another disk.",
            key="output",
        )
