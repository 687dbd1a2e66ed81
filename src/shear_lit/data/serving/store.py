"""Reading packed sequences by (domain, sequence), from verified chunks in a local directory or in remote storage."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from shear_lit.data.errors import DamagedData
from shear_lit.data.prepared.manifest import Manifest, damaged
from shear_lit.data.serving.remote import read_prepared
from shear_lit.data.serving.remote_chunks import open_chunks
from shear_lit.data.serving.remote_settings import REMOTE, RemoteSettings

PADDING_DOMAIN = -1
"""The domain of a sequence that only fills a batch up: it counts nowhere."""

Key = tuple[int, int]
"""The index of a domain and the number of a sequence inside it; ``PADDING_DOMAIN - index`` marks padding."""


class DomainBatch(TypedDict):
    """One micro-batch."""

    tokens: Tensor
    """Token ids, Int64[sequences, sequence_length]."""
    domain: Tensor
    """Index of each sequence's domain, Int64[sequences]; ``PADDING_DOMAIN`` where it only fills up."""
    micro_batch: int
    """Index of the micro-batch within its global batch, over all ranks."""
    positions: NotRequired[Tensor]
    """Position of each token in its document, Int64[sequences, sequence_length]; there where documents are apart."""


class SequenceStore(Dataset[DomainBatch]):
    """The sequences of one split, by (domain, sequence); read-only, and opened when first read in each process.

    A process verifies each chunk that it opens by its hash: a changed byte ends the run with the chunk's name.
    """

    def __init__(
        self,
        directory: str | Path,
        split: str,
        manifest: Manifest | None = None,
        remote: RemoteSettings = REMOTE,
    ) -> None:
        """Take prepared data, local or remote; ``manifest`` saves reading it again.

        Raises:
            DataError: the data is not whole, a domain has no such split, or the cache is too small for it.
        """
        manifest = read_prepared(directory, remote) if manifest is None else manifest
        self.chunk_sizes = manifest.chunk_sizes(split)
        """Sequences of each chunk, by domain."""
        self.domains = tuple(self.chunk_sizes)
        """The domains' names; their indices are those in a batch."""
        self.sequence_length = manifest.sequence_length
        """Tokens of one sequence."""
        self.directory = str(directory)
        """Where the data lies."""
        self._vocabulary = manifest.tokenizer.vocabulary
        self._type = np.dtype(manifest.token_type)
        self._bytes = self.sequence_length * self._type.itemsize
        self._folders = [f"{name}/{split}" for name in self.domains]
        self._records = [manifest.domains[name].splits[split].chunks for name in self.domains]
        self._ends = [list(accumulate(sizes)) for sizes in self.chunk_sizes.values()]
        self._chunks = open_chunks(directory, remote)
        self._chunks.check_room(self._records)

    def sequences(self, domain: int) -> int:
        """How many sequences a domain has."""
        return sum(self.chunk_sizes[self.domains[domain]])

    def __getitem__(self, key: Key) -> DomainBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> DomainBatch:
        """Read the sequences of one micro-batch."""
        tokens = np.empty((len(keys), self.sequence_length), dtype=np.int64)
        domains = np.empty(len(keys), dtype=np.int64)
        for row, (domain, sequence) in enumerate(keys):
            domains[row] = max(domain, PADDING_DOMAIN)
            tokens[row] = self._read(domain if domain >= 0 else PADDING_DOMAIN - domain, int(sequence))
        if len(keys) and (largest := int(tokens.max())) >= self._vocabulary:
            raise self._unknown_token(keys[int(tokens.max(axis=1).argmax())], largest)
        return {"tokens": torch.from_numpy(tokens), "domain": torch.from_numpy(domains), "micro_batch": 0}

    def _unknown_token(self, key: Key, token: int) -> DamagedData:
        domain = key[0] if key[0] >= 0 else PADDING_DOMAIN - key[0]
        where = f"{self._folders[domain]}, sequence {key[1]}"
        return damaged(
            self.directory,
            f"{where}: it holds the token {token}, and the tokenizer has {self._vocabulary} entries",
            DamagedData,
        )

    def _read(self, domain: int, sequence: int) -> NDArray[np.unsignedinteger]:
        ends, records = self._ends[domain], self._records[domain]
        if not 0 <= sequence < ends[-1]:
            raise IndexError(f"{self._folders[domain]} has sequences 0 to {ends[-1] - 1}, not {sequence}")
        number = bisect_right(ends, sequence)
        # litdata puts a head of its own before the tokens, and nothing after them.
        offset = records[number].bytes - (ends[number] - sequence) * self._bytes
        data = self._chunks.read(self._folders[domain], records[number], offset, self._bytes)
        return np.frombuffer(data, dtype=self._type)
