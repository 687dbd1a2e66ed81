"""The index of a sharded checkpoint, which torch reads by unpickling: made sure to name nothing but torch's records."""

import pickle
from pathlib import Path
from typing import Any

import torch

INDEX = ".metadata"
"""The file of a sharded checkpoint that says which tensor lies where."""

_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((_METADATA, f"{kind}StorageMetadata") for kind in ("Tensor", "Chunk", "Bytes")),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
}


class _IndexUnpickler(pickle.Unpickler):
    """Builds the records that an index is made of, and refuses every other name before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in an index of shards")
        return super().find_class(module, name)


def check_index(directory: Path) -> None:
    """Refuse an index whose unpickling would do more than build torch's records; to be called before torch reads it.

    Raises:
        pickle.UnpicklingError, OSError, EOFError: it names something else, or cannot be read.
    """
    with (directory / INDEX).open("rb") as file:
        _IndexUnpickler(file).load()
