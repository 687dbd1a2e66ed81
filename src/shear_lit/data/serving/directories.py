"""Several prepared directories as one data set: their domains in the order that one directory would have them in."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunk_reading import Chunks, Kept
from shear_lit.data.prepared.manifest import (
    KEY,
    ChunkRecord,
    FileRecord,
    Manifest,
    content_fingerprint,
)
from shear_lit.data.serving.remote import RemoteSettings, open_chunks, read_prepared

Place = str | Path | Sequence[str]
"""A prepared directory, or several that are read as one."""

_ALIKE = ("sequence_length", "token_type", "prepend_bos", "append_eos", "split_special_tokens", "chat")
"""What makes tokens and sequences of documents, besides the tokenizer."""


def read_data(place: Place, remote: RemoteSettings) -> Manifest:
    """The manifest of a prepared directory, or that of several together.

    Its fingerprint is that of the same domains in one directory.

    Raises:
        DataError: one of them is not whole, a domain is in two, or they were not prepared alike.
    """
    if isinstance(place, str | Path):
        return read_prepared(place, remote)
    if not place:
        raise DataError("[] is an empty list. Name a directory of prepared data.", key=KEY)
    return _joined([read_prepared(directory, remote) for directory in place])


def open_data(place: Place, manifest: Manifest, remote: RemoteSettings) -> Chunks:
    """The chunks of what ``read_data`` gave ``manifest`` of; nothing is read yet."""
    if isinstance(place, str | Path):
        return open_chunks(place, remote)
    opened = {directory: open_chunks(directory, remote) for directory in place}
    return _JoinedChunks({name: opened[manifest.places[name]] for name in manifest.domains})


def _joined(manifests: Sequence[Manifest]) -> Manifest:
    first, places = manifests[0], dict[str, str]()
    for manifest in manifests:
        _check_alike(first, manifest)
        for name in manifest.domains:
            if name in places:
                raise DataError(
                    f"domain {name!r} is in {places[name]!r} and in {manifest.place!r}: its documents would be "
                    "those of two. Prepare one of them under another name, or add its files to the other directory.",
                    key=KEY,
                )
            places[name] = manifest.place
    domains = {name: record for manifest in manifests for name, record in manifest.domains.items()}
    domains = dict(sorted(domains.items()))
    return replace(
        first,
        domains=domains,
        format=min(manifest.format for manifest in manifests),
        ledger=(),
        runs=0,
        fingerprint=content_fingerprint(first.tokenizer, first.sequence_length, first.token_type, domains),
        place=", ".join(manifest.place for manifest in manifests),
        places=places,
    )


def _check_alike(first: Manifest, other: Manifest) -> None:
    if first.tokenizer.fingerprint != other.tokenizer.fingerprint:
        what, found = (
            "the tokenizer",
            [f"{m.tokenizer.name} ({m.tokenizer.fingerprint[:12]})" for m in (first, other)],
        )
    else:
        differing = [key for key in _ALIKE if getattr(first, key) != getattr(other, key)]
        if not differing:
            return
        what, found = differing[0], [str(getattr(manifest, differing[0])) for manifest in (first, other)]
        if what == "chat":
            found = [
                "text" if manifest.chat is None else manifest.chat.template.name
                for manifest in (first, other)
            ]
    raise DataError(
        f"{other.place!r} was prepared with another {what.removeprefix('the ')} than {first.place!r} ({found[1]}, and "
        f"{found[0]}): directories are read as one where they were prepared alike. Prepare one of them again.",
        key=KEY,
    )


class _JoinedChunks:
    """The chunks of several directories, by domain."""

    def __init__(self, of_domain: dict[str, Chunks]) -> None:
        self._of_domain = of_domain

    def read(self, folder: str, file: FileRecord, offset: int, size: int) -> bytes:
        """As in ``Chunks``."""
        return self._of(folder).read(folder, file, offset, size)

    def problem(self, folder: str, file: FileRecord) -> str | None:
        """As in ``Chunks``."""
        return self._of(folder).problem(folder, file)

    @property
    def is_remote(self) -> bool:
        """As in ``Chunks``."""
        return any(chunks.is_remote for chunks in self._of_domain.values())

    def touch(self, folder: str, file: FileRecord) -> bool:
        """As in ``Chunks``."""
        return self._of(folder).touch(folder, file)

    def bring(self, folder: str, file: FileRecord, kept: Kept) -> None:
        """As in ``Chunks``."""
        self._of(folder).bring(folder, file, kept)

    def check_room(self, domains: Sequence[Sequence[ChunkRecord]]) -> None:
        """As in ``Chunks``: all that are remote share one cache."""
        of_each = zip(self._of_domain.values(), domains, strict=True)
        remote = [(chunks, domain) for chunks, domain in of_each if chunks.is_remote]
        if remote:
            remote[0][0].check_room([domain for _, domain in remote])

    def _of(self, folder: str) -> Chunks:
        return self._of_domain[folder.partition("/")[0]]
