"""Whether a model fits into the memory that is free, seen before any weight is read."""

import math
from pathlib import Path

import torch

from shear_lit.models.source_files import CONFIG, INDEX, KEY, SourceError, local_directory
from shear_lit.models.weight_files import tensors_of

_MEMORY = Path("/proc/meminfo")


def stored_parameters(source: str) -> int:
    """The numbers in a model's weight files: its parameters, of which a tied head is stored once.

    Raises:
        SourceError: they cannot be read.
    """
    directory = local_directory(source, (CONFIG, INDEX, "*.safetensors"))
    return sum(math.prod(tensor.shape) for tensor in tensors_of(directory, source).values())


def check_fits(source: str, parameters: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a model that is larger than the memory that is free; where nobody says how much is, nothing is refused.

    Raises:
        SourceError: it is.
    """
    needed, free = parameters * dtype.itemsize, free_bytes(device)
    if free is not None and needed > free:
        raise SourceError(
            f"{source!r} takes {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} and {free / 1e9:.1f} GB "
            f"are free on {device}. Use --dtype bfloat16, a device with more memory, or a smaller model.",
            key=KEY,
        )


def free_bytes(device: torch.device) -> int | None:
    """The memory of a device that is free; none where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not _MEMORY.exists():
        return None
    found = [line.split() for line in _MEMORY.read_text().splitlines() if line.startswith("MemAvailable:")]
    return 1024 * int(found[0][1]) if found else None
