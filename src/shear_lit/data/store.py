"""Reading packed sequences by (domain, sequence): litdata chunks, mapped in place."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from litdata import StreamingDataset, TokensLoader
from torch import Tensor
from torch.utils.data import Dataset

from shear_lit.data.manifest import Manifest, read_manifest
from shear_lit.data.order import WINDOW_CHUNKS

_litdata_log = logging.getLogger("litdata")
if _litdata_log.level == logging.NOTSET:  # it announces each folder it maps; its warnings stay
    _litdata_log.setLevel(logging.WARNING)

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
    """The sequences of one split, by (domain, sequence); read-only, and opened when first read in each process."""

    def __init__(self, directory: str | Path, split: str, manifest: Manifest | None = None) -> None:
        """Take a prepared directory; ``manifest`` saves reading it again.

        Raises:
            DataError: the directory is not whole, or a domain has no such split.
        """
        manifest = read_manifest(directory) if manifest is None else manifest
        self.chunk_sizes = manifest.chunk_sizes(split)
        """Sequences of each chunk, by domain."""
        self.domains = tuple(self.chunk_sizes)
        """The domains' names; their indices are those in a batch."""
        self.sequence_length = manifest.sequence_length
        """Tokens of one sequence."""
        self._folders = [str(Path(directory) / name / split) for name in self.domains]
        self._open: list[StreamingDataset] = []
        self._process = -1

    def sequences(self, domain: int) -> int:
        """How many sequences a domain has."""
        return sum(self.chunk_sizes[self.domains[domain]])

    def __getitem__(self, key: Key) -> DomainBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> DomainBatch:
        """Read the sequences of one micro-batch."""
        if self._process != os.getpid():
            self._open, self._process = [self._opened(folder) for folder in self._folders], os.getpid()
        tokens = np.empty((len(keys), self.sequence_length), dtype=np.int64)
        domains = np.empty(len(keys), dtype=np.int64)
        for row, (domain, sequence) in enumerate(keys):
            domains[row] = max(domain, PADDING_DOMAIN)
            tokens[row] = self._open[domain if domain >= 0 else PADDING_DOMAIN - domain][int(sequence)]
        return {"tokens": torch.from_numpy(tokens), "domain": torch.from_numpy(domains), "micro_batch": 0}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": [], "_process": -1}  # maps do not travel to workers

    def _opened(self, folder: str) -> StreamingDataset:
        # litdata keeps as many chunks mapped as it may download ahead: all of one window.
        loader = TokensLoader(block_size=self.sequence_length)
        return StreamingDataset(folder, item_loader=loader, max_pre_download=WINDOW_CHUNKS)
