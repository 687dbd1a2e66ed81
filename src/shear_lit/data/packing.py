"""Tokens packed into sequences of one length, and written as litdata chunks in a fixed order."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from litdata import TokensLoader
from litdata.streaming.writer import BinaryWriter
from numpy.typing import NDArray

from shear_lit.data.manifest import INDEX, ChunkRecord, SplitRecord, write_json

CHUNK_BYTES = 1 << 26
"""Size that a chunk file aims at: litdata's own default."""

_WORKER_INDEX = f"0.{INDEX}"


class SplitWriter:
    """Packs the documents of one split of one domain, one after the other, and writes them.

    It uses litdata's writer in this process: the output depends on the tokens alone, not on workers or the time.
    """

    def __init__(
        self, folder: Path, *, sequence_length: int, token_type: str, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._folder, self._length = folder, sequence_length
        self._type = np.dtype(token_type)
        self._per_chunk = max(1, chunk_bytes // (sequence_length * self._type.itemsize))
        self._writer = BinaryWriter(
            str(folder), chunk_size=self._per_chunk * sequence_length, item_loader=TokensLoader()
        )
        self._writer._rank = 0  # it would read the rank of a launcher's environment
        self._pending: list[NDArray[np.unsignedinteger]] = []
        self._pending_tokens = 0
        self.documents = 0
        """Documents packed so far."""
        self.sequences = 0
        """Sequences written so far."""

    def add(self, tokens: Sequence[int]) -> None:
        """Pack one more document."""
        self.documents += 1
        self._pending.append(np.asarray(tokens, dtype=self._type))
        self._pending_tokens += len(tokens)
        if self._pending_tokens >= 64 * self._length:
            self._write_full_sequences()

    def finish(self) -> SplitRecord:
        """Write what is left, drop the tail that fills no sequence, and describe what was written."""
        self._write_full_sequences()
        self._writer.done()
        return SplitRecord(
            documents=self.documents,
            tokens=self.sequences * self._length + self._pending_tokens,
            tail_tokens=self._pending_tokens,
            chunks=self._finished_index() if self.sequences else (),
        )

    def _write_full_sequences(self) -> None:
        tokens = np.concatenate([*self._pending, np.empty(0, dtype=self._type)])
        full = len(tokens) // self._length
        for sequence in tokens[: full * self._length].reshape(full, self._length):
            self._writer.add_item(self.sequences, sequence)
            self.sequences += 1
        self._pending = [tokens[full * self._length :]]
        self._pending_tokens = len(self._pending[0])

    def _finished_index(self) -> tuple[ChunkRecord, ...]:
        """Turn the writer's index into the folder's; its stamp is the content instead of the time."""
        written = self._folder / _WORKER_INDEX
        index = json.loads(written.read_text(encoding="utf-8"))
        chunks = tuple(
            ChunkRecord(
                file=chunk["filename"],
                bytes=chunk["chunk_bytes"],
                sequences=chunk["dim"] // self._length,
                sha256=file_hash(self._folder / chunk["filename"]),
            )
            for chunk in index["chunks"]
        )
        stamp = hashlib.sha256("".join(chunk.sha256 for chunk in chunks).encode()).hexdigest()
        write_json(self._folder / INDEX, index | {"updated_at": stamp})
        written.unlink()
        return chunks


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
