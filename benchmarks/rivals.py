"""Other loaders on the tokens that mixture_loader.py reads: litdata's over one domain, and mosaicml-streaming's.

They read in order, which is fastest for them, and deliver the tokens as they lie on disk (16 bits); ours are mixed,
shuffled and 64 bits wide. mosaicml-streaming is measured where it can be imported.
"""

import importlib.util
import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
from torch.utils.data import DataLoader

_WARM_UP = 100


def has_mosaicml() -> bool:
    """Whether mosaicml-streaming is there (on PYTHONPATH, for instance)."""
    return importlib.util.find_spec("streaming") is not None


def litdata_rate(
    directory: Path, domain: str, *, sequence_length: int, micro_batch: int, workers: int
) -> float:
    """Tokens per second of litdata's own loader over one domain."""
    loader = TokensLoader(block_size=sequence_length)
    data = StreamingDataset(str(directory / domain / "prune"), item_loader=loader, shuffle=False)
    return _rate(StreamingDataLoader(data, batch_size=micro_batch, num_workers=workers))


def write_mosaicml(directory: Path, sequences: Iterable[np.ndarray], *, sequence_length: int) -> None:
    """Write sequences as mosaicml-streaming's own format."""
    from streaming import MDSWriter

    columns = {"tokens": f"ndarray:uint16:{sequence_length}"}
    with MDSWriter(out=str(directory), columns=columns) as writer:
        for sequence in sequences:
            writer.write({"tokens": sequence})


def mosaicml_rate(directory: Path, *, micro_batch: int, workers: int) -> float:
    """Tokens per second of mosaicml-streaming over what ``write_mosaicml`` wrote."""
    from streaming import StreamingDataset as MosaicmlDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    data: Any = MosaicmlDataset(local=str(directory), shuffle=False, batch_size=micro_batch)
    return _rate(DataLoader(data, batch_size=micro_batch, num_workers=workers))


def _rate(batches: Iterable[Any]) -> float:
    """Tokens per second over one epoch, after a warm-up."""
    read, remaining = 0, iter(batches)
    for _ in itertools.islice(remaining, _WARM_UP):
        pass
    start = time.perf_counter()
    for batch in remaining:
        read += (batch["tokens"] if isinstance(batch, dict) else batch).numel()
    return read / (time.perf_counter() - start)
