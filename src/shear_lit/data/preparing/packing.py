"""Tokens packed into sequences of one length, and written as litdata chunks in a fixed order."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from litdata import TokensLoader
from litdata.streaming.writer import BinaryWriter
from numpy.typing import NDArray

from shear_lit.data.prepared.manifest import INDEX, ChunkRecord, SplitRecord, write_json
from shear_lit.data.preparing.settings import CHUNK_BYTES

_FLUSH_TOKENS = 1 << 16


class SplitWriter:
    """Packs the documents of one split of one domain, one after the other, and writes them.

    The chunks are litdata's, byte for byte, but a chunk is never held in memory, and its name, its place in the index
    and the index' stamp depend on the tokens alone, not on workers or the time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sequence_length: int,
        token_type: str,
        chunk_bytes: int = CHUNK_BYTES,
        earlier: SplitRecord | None = None,
        tail: Sequence[int] = (),
    ) -> None:
        """Begin a split in ``folder``, or go on with one.

        Args:
            folder: Where the chunks and the index are written.
            sequence_length: Tokens of a sequence.
            token_type: ``uint16`` or ``uint32``.
            chunk_bytes: Size that a chunk aims at.
            earlier: What was written before; its chunks stay as they are, wherever they lie.
            tail: The tokens that it left over.
        """
        self._folder, self._length, self._earlier = folder, sequence_length, earlier
        self._type = np.dtype(token_type)
        self._per_chunk = max(1, chunk_bytes // (sequence_length * self._type.itemsize))
        self._pending: list[NDArray[np.unsignedinteger]] = [np.asarray(tail, dtype=self._type)]
        self._pending_tokens = len(tail)
        self._chunks = list(earlier.chunks) if earlier else []
        self._chunk: _Chunk | None = None
        self.documents = earlier.documents if earlier else 0
        """Documents packed so far."""
        self.sequences = earlier.sequences if earlier else 0
        """Sequences written so far."""
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Give up the chunk that is being written, if there still is one."""
        if self._chunk is not None:
            self._chunk.give_up()
            self._chunk = None

    def add(self, tokens: Sequence[int] | NDArray[Any], *, documents: int = 1) -> None:
        """Pack ``documents`` more documents, one after the other in ``tokens``."""
        self.documents += documents
        self._pending.append(np.asarray(tokens, dtype=self._type))
        self._pending_tokens += len(tokens)
        if self._pending_tokens >= max(64 * self._length, _FLUSH_TOKENS):
            self._write_full_sequences()

    @property
    def tail(self) -> list[int]:
        """The tokens that fill no sequence, once all is written."""
        return np.concatenate(self._pending).tolist()

    def finish(self) -> SplitRecord:
        """Write what is left, leave the tail that fills no sequence, and describe all that the split now holds."""
        self._write_full_sequences()
        self._end_chunk()
        if self._chunks:
            self._write_index()
        return SplitRecord(
            documents=self.documents,
            tokens=self.sequences * self._length + self._pending_tokens,
            tail_tokens=self._pending_tokens,
            chunks=tuple(self._chunks),
            duplicates=self._earlier.duplicates if self._earlier else 0,
        )

    def _write_full_sequences(self) -> None:
        tokens = np.concatenate(self._pending)
        full = len(tokens) // self._length
        written = 0
        while written < full:
            if self._chunk is None:
                path = self._folder / f"chunk-0-{len(self._chunks)}.bin"
                self._chunk = _Chunk(path, self._per_chunk, self._length * self._type.itemsize)
            count = min(full - written, self._per_chunk - self._chunk.sequences)
            self._chunk.write(tokens[written * self._length : (written + count) * self._length], count)
            written += count
            if self._chunk.sequences == self._per_chunk:
                self._end_chunk()
        self.sequences += full
        self._pending = [tokens[full * self._length :].copy()]
        self._pending_tokens = len(self._pending[0])

    def _end_chunk(self) -> None:
        if self._chunk is not None:
            self._chunks.append(self._chunk.finish())  # which may fail: then there still is one to give up
            self._chunk = None

    def _write_index(self) -> None:
        """Write the index as litdata reads it; its stamp is the content instead of the time."""
        chunks = [
            {
                "chunk_bytes": chunk.bytes,
                "chunk_size": chunk.sequences,
                "dim": chunk.sequences * self._length,
                "filename": chunk.file,
            }
            for chunk in self._chunks
        ]
        stamp = hashlib.sha256("".join(chunk.sha256 for chunk in self._chunks).encode()).hexdigest()
        write_json(self._folder / INDEX, {"chunks": chunks, "config": self._config(), "updated_at": stamp})

    def _config(self) -> dict[str, Any]:
        """What litdata's writer says of chunks like these."""
        tokens = self._per_chunk * self._length
        writer = BinaryWriter(str(self._folder), chunk_size=tokens, item_loader=TokensLoader())
        writer._rank = 0  # it would read the rank of a launcher's environment
        writer.add_item(
            0, np.zeros(self._length, dtype=self._type)
        )  # kept in memory: only ``done`` writes it
        return writer.get_config()


class _Chunk:
    """A chunk file that is being written: a number of items, where each begins and ends, and the items.

    The head has room for a full chunk; a chunk that stays shorter is written once more, with its own.
    """

    def __init__(self, path: Path, most: int, item_bytes: int) -> None:
        self._path, self._item_bytes = path, item_bytes
        self._part = path.with_name(f"{path.name}.part")
        self._file = self._part.open("w+b")
        self._head = self._file.write(_head(most, item_bytes))
        self._hash = hashlib.sha256(_head(most, item_bytes))
        self._most = most
        self.sequences = 0

    def write(self, tokens: NDArray[np.unsignedinteger], sequences: int) -> None:
        content = np.ascontiguousarray(tokens).data
        self._file.write(content)
        self._hash.update(content)
        self.sequences += sequences

    def finish(self) -> ChunkRecord:
        digest = self._hash.hexdigest()
        if self.sequences < self._most:
            self._shorten()
            digest = file_hash(self._part)
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        self._part.replace(self._path)
        return ChunkRecord(file=self._path.name, bytes=size, sequences=self.sequences, sha256=digest)

    def give_up(self) -> None:
        with contextlib.suppress(OSError):  # a full disk is full for what is still in the buffer too
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _shorten(self) -> None:
        self._file.seek(self._head)
        shorter = self._part.with_name(f"{self._path.name}.shorter.part")
        with self._file, shorter.open("w+b") as file:
            file.write(_head(self.sequences, self._item_bytes))
            shutil.copyfileobj(self._file, file, 1 << 20)
        shorter.replace(self._part)
        self._file = self._part.open("r+b")
        self._file.seek(0, os.SEEK_END)


def _head(sequences: int, item_bytes: int) -> bytes:
    start = 4 * (sequences + 2)
    offsets = start + item_bytes * np.arange(sequences + 1, dtype=np.int64)
    return np.uint32(sequences).tobytes() + offsets.astype(np.uint32).tobytes()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
