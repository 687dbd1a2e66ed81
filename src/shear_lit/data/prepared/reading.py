"""Reading a manifest, and holding it against the files of its directory."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import (
    FORMAT,
    INDEX,
    KEY,
    MANIFEST,
    MOST_CHUNK_SEQUENCES,
    PACKINGS,
    SPLITS,
    TOKEN_TYPES,
    ChunkRecord,
    FileRecord,
    Manifest,
    SplitRecord,
    damaged,
    is_domain_name,
    is_file_name,
)
from shear_lit.disk.names import expanded, is_elsewhere, is_plain_name, is_sha256
from shear_lit.disk.reading import read_small
from shear_lit.disk.records import parse_values, read_values, record_of, shown

MOST_CHUNK_BYTES = 1 << 32
"""A chunk is smaller: the offsets in it have 32 bits."""


def read_manifest(directory: str | Path) -> Manifest:
    """Read the manifest of ``directory`` and hold the files against it: presence and sizes, not contents.

    Raises:
        DataError: something is missing, half-written, outside of the directory, or not what the manifest says.
    """
    manifest = manifest_alone(directory)
    root = expanded(directory)
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            if (
                problem := _split_problem(root, f"{name}/{split}", record, manifest.sequence_length)
            ) is not None:
                raise damaged(directory, f"{problem[0]}: {problem[1]}")
    return manifest


def manifest_alone(directory: str | Path) -> Manifest:
    """Read the manifest of a local ``directory``; the files that it lists are not looked at.

    Raises:
        DataError: there is none, or none that can be read.
    """
    path = expanded(directory)
    if not path.is_dir():
        raise DataError(
            f"{str(directory)!r} is no directory: prepared data is expected there. "
            "Correct the path, or make it with `shear-lit prepare`.",
            key=KEY,
        )
    try:
        if (what := _outside(path / MANIFEST, path)) is not None:
            raise _no_manifest(str(directory), str(path / MANIFEST), what)
        content = read_small(path / MANIFEST)
    except FileNotFoundError as error:
        raise DataError(
            f"{str(directory)!r} has no {MANIFEST}: it is half-written or was not prepared. "
            "Run `shear-lit prepare` again.",
            key=KEY,
        ) from error
    except OSError as error:
        raise _no_manifest(str(directory), str(path / MANIFEST), error.strerror or str(error)) from error
    return parsed_manifest(content, str(path / MANIFEST), place=str(directory))


def parsed_manifest(content: bytes, where: str, *, place: str) -> Manifest:
    """The manifest that the file ``where`` of ``place`` holds; the files that it lists are not looked at.

    Raises:
        DataError: it is no manifest of this version, or names what leads out of its directory.
    """
    try:
        parsed = parse_values(content)
        found = parsed.get("format") if isinstance(parsed, dict) else None
        if type(found) is not int or found not in range(1, FORMAT + 1):
            raise DataError(
                f"{place!r}: {where}: format {shown(found)}, this version reads 1 to {FORMAT}. "
                "Run `shear-lit prepare` again with this version.",
                key=KEY,
            )
        manifest = record_of(Manifest, parsed)
        _check_manifest(manifest)
    except DataError:
        raise
    except ValueError as error:
        raise _no_manifest(place, where, str(error)) from error
    return replace(manifest, place=place)


def _no_manifest(place: str, where: str, what: str) -> DataError:
    return DataError(
        f"{place!r}: {where} cannot be read as a manifest ({what}): it was changed or damaged. "
        "Run `shear-lit prepare` again.",
        key=KEY,
    )


def _check_manifest(manifest: Manifest) -> None:
    """Refuse, by a ``ValueError``, what no run of `prepare` writes: above all names that lead out of the directory."""
    tokenizer = manifest.tokenizer
    for key, known in (("token_type", TOKEN_TYPES), ("packing", PACKINGS)):
        if (found := getattr(manifest, key)) not in known:
            raise ValueError(f"{key} is {shown(found)}: {' or '.join(known)} is expected")
    if not 2 <= manifest.sequence_length < MOST_CHUNK_BYTES:
        raise ValueError(f"sequence_length is {manifest.sequence_length}: 2 or more is expected")
    if not 1 <= tokenizer.vocabulary <= 1 << 32:
        raise ValueError(f"tokenizer.vocabulary is {tokenizer.vocabulary}: 1 to 2^32 is expected")
    for name, token in (("bos_id", tokenizer.bos_id), ("eos_id", tokenizer.eos_id)):
        if token is not None and token >= tokenizer.vocabulary:
            raise ValueError(
                f"tokenizer.{name} is {token}, and the vocabulary has {tokenizer.vocabulary} entries"
            )
    for hashed in (tokenizer.fingerprint, *([manifest.fingerprint] if manifest.fingerprint else [])):
        if not is_sha256(hashed):
            raise ValueError(f"the fingerprint {shown(hashed)} is none: 64 hexadecimal digits are expected")
    if (chat := manifest.chat) is not None and chat.sha256 != chat.template.sha256:
        raise ValueError(f"chat.sha256 is {shown(chat.sha256)}, and the template in it is another one")
    _check_files(manifest.ledger, "ledger")
    if not manifest.domains:
        raise ValueError("it has no domain")
    for name, domain in manifest.domains.items():
        if not is_domain_name(name):
            raise ValueError(f"the domain {shown(name)} is no safe folder name")
        for split, record in domain.splits.items():
            if split not in SPLITS:
                raise ValueError(f"{name} has the split {shown(split)}: {', '.join(SPLITS)} are known")
            for chunk in record.chunks:
                _check_chunk(chunk, manifest, f"{name}/{split}")
        if any(not 0 <= low <= high <= 1 for low, high in domain.bounds.values()):
            raise ValueError(f"{name}.bounds are {shown(domain.bounds)}: places from 0 to 1 are expected")


def _check_chunk(chunk: ChunkRecord, manifest: Manifest, where: str) -> None:
    """Refuse what would lead out of the folder, or out of a cache: names become paths, and hashes do."""
    _check_files(chunk.files(), where)
    tokens = chunk.sequences * manifest.sequence_length
    if (
        not tokens * int(manifest.token_type.removeprefix("uint")) // 8 <= chunk.bytes <= MOST_CHUNK_BYTES
        or chunk.sequences > MOST_CHUNK_SEQUENCES
    ):
        raise ValueError(
            f"{where} lists {chunk.file} with {chunk.bytes:,} bytes and {chunk.sequences:,} sequences, "
            f"{tokens:,} tokens of {manifest.token_type}: no chunk is like that"
        )


def _check_files(files: Iterable[FileRecord], where: str) -> None:
    for one in files:
        if not is_file_name(one.file) or not is_sha256(one.sha256):
            raise ValueError(
                f"{where} lists a file with file={shown(one.file)} and sha256={shown(one.sha256)}: a plain file name "
                "and 64 hexadecimal digits are expected"
            )


def _split_problem(
    root: Path, folder: str, record: SplitRecord, sequence_length: int
) -> tuple[Path, str] | None:
    if (problem := index_problem(root, folder, record, sequence_length)) is not None:
        return problem
    with os.scandir(root / folder) as entries:  # one look at each file
        found = {entry.name: entry for entry in entries}
    for one in (one for chunk in record.chunks for one in chunk.files()):
        entry = found.get(one.file)
        if entry is not None and entry.is_file(follow_symlinks=False) and entry.stat().st_size == one.bytes:
            continue
        path = root / folder / one.file
        if (what := size_problem(path, one, root)) is not None:
            return path, what
    return None


def index_problem(
    root: Path, folder: str, record: SplitRecord, sequence_length: int
) -> tuple[Path, str] | None:
    """What is wrong with the ``folder`` of a split or with its index, and which of the two; nothing if all is well."""
    path = root / folder
    if not path.is_dir():
        return path, "the folder is missing"
    index = path / INDEX
    for place in (path, index):
        if (what := _outside(place, root, parents=True)) is not None:
            return place, what
    try:
        found = read_values(index)
        indexed = [(c["filename"], c["chunk_bytes"], c["dim"]) for c in found["chunks"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        return index, f"the index cannot be read ({error!r})"
    if not all(is_plain_name(name) for name, _, _ in indexed):
        return index, "the index names a file that is not in its folder"
    expected = [(c.file, c.bytes, c.sequences * sequence_length) for c in record.chunks]
    if indexed[: len(expected)] != expected:  # more are there while files are being added
        return index, f"the index does not list the chunks of {MANIFEST}"
    return None


def size_problem(path: Path, expected: FileRecord, root: Path | None = None) -> str | None:
    """What the presence and the size of a file tell against its being ``expected``; nothing if nothing.

    With ``root``, the file must lie in that directory.
    """
    if root is not None and (what := _outside(path, root)) is not None:
        return what
    if not path.is_file():
        return "the file is missing"
    if (found := path.stat().st_size) != expected.bytes:
        return f"the file has {found:,} bytes instead of {expected.bytes:,}"
    return None


def _outside(path: Path, root: Path, *, parents: bool = False) -> str | None:
    """What tells against a link: it may not lead out of ``root``, but for the store of a download from the hub."""
    if (parents or path.is_symlink()) and is_elsewhere(path, root):
        return f"it is a link to {str(path.resolve())!r}, outside of the directory"
    return None
