"""The files of packed sequences: litdata's chunks, and beside each where its documents begin.

``chunk-0-7.bin`` is what litdata's own writer makes of the sequences, byte for byte: their number (uint32), where each
begins and the last ends in the file (uint32), and the tokens. ``chunk-0-7.documents`` holds, as uint32: the number of
sequences; for each sequence, and at the end, how many documents begin before it; for each the place where its text
ends, which is its length unless the rest is padding; and for each document the place in its sequence where it begins.
``chunk-0-7.mask``, which may be there, holds one bit for each token, the first bit of a byte first: whether it is to
be predicted. Every sequence begins a byte.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.prepared.manifest import INDEX, ChunkRecord, FileRecord, write_json
from shear_lit.data.prepared.reading import size_problem

_FORMATS = {"uint16": "no_header_numpy:5", "uint32": "no_header_numpy:6"}  # how litdata calls the types
_PLACE = np.dtype("<u4")

Tokens = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class SequenceDocuments:
    """Where documents begin in some sequences, and where the text of each ends."""

    firsts: NDArray[np.uint32]
    """How many documents begin before each sequence, and before the end, UInt32[sequences + 1]."""
    ends: NDArray[np.uint32]
    """Tokens of text in each sequence, UInt32[sequences]; what follows is padding."""
    starts: NDArray[np.uint32]
    """The place of each document's first token in its sequence, UInt32[documents]."""

    @classmethod
    def of_stream(cls, starts: NDArray[np.int64], sequences: int, length: int) -> "SequenceDocuments":
        """Those of sequences that hold a stream of tokens, in which documents begin at ``starts``, without padding."""
        firsts = np.searchsorted(starts, np.arange(sequences + 1, dtype=np.int64) * length)
        return cls(
            firsts.astype(np.uint32),
            np.full(sequences, length, dtype=np.uint32),
            (starts[: firsts[-1]] % length).astype(np.uint32),
        )

    @classmethod
    def parsed(cls, content: bytes, sequences: int, length: int) -> "SequenceDocuments":
        """What a file holds.

        Raises:
            ValueError: it is not that of so many sequences of such a length.
        """
        values = np.frombuffer(content[: len(content) // 4 * 4], _PLACE)
        head = 2 * sequences + 2
        if len(values) < head or values[0] != sequences or len(values) != head + int(values[sequences + 1]):
            raise ValueError("it is not that of its chunk")
        found = cls(values[1 : sequences + 2], values[sequences + 2 : head], values[head:])
        if np.any(found.firsts[1:] < found.firsts[:-1]) or max(found.ends.max(initial=0), 0) > length:
            raise ValueError("what it says of its sequences cannot be")
        if found.starts.max(initial=0) >= length:
            raise ValueError("a document begins outside of its sequence")
        return found

    def content(self) -> bytes:
        """What is written of it."""
        parts = (np.array([len(self.ends)]), self.firsts, self.ends, self.starts)
        return b"".join(part.astype(_PLACE).tobytes() for part in parts)

    def positions(self, sequence: int, length: int) -> NDArray[np.int64]:
        """The position of each token of a sequence in its document, or in the part that lies in it; from 0."""
        first, last = self.firsts[sequence], self.firsts[sequence + 1]
        place = np.arange(length)
        begins = np.zeros(length, dtype=np.int64)
        begins[self.starts[first:last]] = self.starts[first:last]
        if (end := self.ends[sequence]) < length:
            begins[end] = end
        return place - np.maximum.accumulate(begins)

    def numbers(self, sequence: int, length: int) -> NDArray[np.int64]:
        """The number of each token's document in the chunk, from 1; 0 is the rest of one that began before it."""
        first, last = int(self.firsts[sequence]), int(self.firsts[sequence + 1])
        return first + np.searchsorted(self.starts[first:last], np.arange(length), side="right").astype(
            np.int64
        )


def write_chunk(
    folder: Path,
    number: int,
    tokens: Iterable[Tokens],
    documents: SequenceDocuments | None,
    length: int,
    *,
    learned: NDArray[np.bool_] | None = None,
) -> ChunkRecord:
    """Write chunk ``number`` of a split, and what belongs to it, each wholly or not at all.

    Args:
        folder: That of the domain and split.
        number: Which chunk it is, from 0.
        tokens: All tokens of its sequences, in parts of any size, each as it is stored.
        documents: Where documents begin; none, where that is not known: then ``length`` tells sequences apart.
        length: Tokens of a sequence.
        learned: Which tokens are to be predicted, one for each; none: all are.
    """
    parts = [np.ascontiguousarray(part) for part in tokens]
    sequences = sum(len(part) for part in parts) // length
    head = _head(sequences, length * parts[0].itemsize)
    chunk = write_part(folder / f"chunk-0-{number}.bin", (head, *(part.data for part in parts)))
    beside = None
    if documents is not None:
        beside = write_part(folder / f"chunk-0-{number}.documents", (documents.content(),))
    mask = None
    if learned is not None:
        bits = np.packbits(learned.reshape(sequences, length), axis=1, bitorder="little")
        mask = write_part(folder / f"chunk-0-{number}.mask", (bits.tobytes(),))
    return ChunkRecord(**vars(chunk), sequences=sequences, documents=beside, loss_mask=mask)


def write_part(path: Path, contents: Iterable[Any]) -> FileRecord:
    """Write one file after another's bytes, wholly or not at all, and have it reach the disk."""
    # Several machines may write the same file on storage that they share, and processes of the same number.
    part = path.with_name(f"{path.name}.{secrets.randbits(63)}.part")
    digest, size = hashlib.sha256(), 0
    try:
        with part.open("wb") as file:
            for content in contents:
                size += file.write(content)
                digest.update(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return FileRecord(file=path.name, bytes=size, sha256=digest.hexdigest())


def write_index(
    folder: Path, chunks: Sequence[ChunkRecord], *, length: int, per_chunk: int, token_type: str
) -> None:
    """Write the index of a split as litdata's writer does; its stamp is the content instead of the time.

    ``per_chunk`` is the number of sequences of a full chunk.
    """
    config = {
        "chunk_bytes": None,
        "chunk_size": per_chunk * length,
        "compression": None,
        "compression_batch_size": None,
        "compression_level": None,
        "data_format": [_FORMATS[token_type]],
        "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',
        "encryption": None,
        "ipc_compression": None,
        "item_loader": "TokensLoader",
        "types": "json",
    }
    listed = [
        {
            "chunk_bytes": chunk.bytes,
            "chunk_size": chunk.sequences,
            "dim": chunk.sequences * length,
            "filename": chunk.file,
        }
        for chunk in chunks
    ]
    stamp = hashlib.sha256("".join(chunk.sha256 for chunk in chunks).encode()).hexdigest()
    write_json(folder / INDEX, {"chunks": listed, "config": config, "updated_at": stamp})


def _head(sequences: int, item_bytes: int) -> bytes:
    start = 4 * (sequences + 2)
    offsets = start + item_bytes * np.arange(sequences + 1, dtype=np.int64)
    return np.uint32(sequences).tobytes() + offsets.astype(np.uint32).tobytes()


def content_problem(path: Path, expected: FileRecord, root: Path | None = None) -> str | None:
    """What tells against a file's being ``expected``: its place, presence, size or SHA-256; nothing if nothing does."""
    if (what := size_problem(path, expected, root)) is not None:
        return what
    try:
        found = file_hash(path)
    except OSError as error:
        return f"the file cannot be read ({error.strerror or error})"
    if found != expected.sha256:
        return f"the file's content changed (SHA-256 {found[:12]}… instead of {expected.sha256[:12]}…)"
    return None


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
