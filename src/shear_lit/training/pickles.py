"""Pickles that torch wrote, gone through by unpicklers that look up nothing but torch's records."""

import io
import math
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

UnpicklingError = pickle.UnpicklingError
"""What is raised at a pickle that is damaged or names what it may not."""

_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((_METADATA, f"{kind}StorageMetadata") for kind in ("Tensor", "Chunk", "Bytes")),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}
_PATHS = {(module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")}


class _IndexUnpickler(pickle.Unpickler):
    """Builds the records that an index is made of, and refuses every other name before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PATHS:
            return _text_of_path
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in an index of shards")
        return super().find_class(module, name)


def _text_of_path(*parts: str) -> str:
    # Where the shards were when they were written is of no use here, and a pickle can change a class that it is given.
    return "/".join(map(str, parts))


def unpickle_index(content: bytes) -> Any:
    """The index of shards in ``content``: records of torch and plain values.

    Raises:
        pickle.UnpicklingError, EOFError and others: it names something else, or is damaged.
    """
    return _IndexUnpickler(io.BytesIO(content)).load()


@dataclass(frozen=True)
class StoredNumbers:
    """What a pickle says of the numbers of a tensor, which lie beside it."""

    dtype: torch.dtype
    """Their type; bytes where the pickle names none."""
    count: int
    """How many there are."""

    @property
    def nbytes(self) -> int:
        """Their size."""
        return self.count * self.dtype.itemsize


class _Ignored:
    """Stands for whatever a pickle would build: takes everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "_Ignored":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """As a list's."""

    def extend(self, values: Iterable[Any]) -> None:
        """As a list's."""

    def add(self, value: Any) -> None:
        """As a set's."""


class _NumbersUnpickler(pickle.Unpickler):
    """Looks up nothing and builds nothing: it notes which numbers a pickle of torch.save refers to."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.found: dict[str, StoredNumbers] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return torch.UntypedStorage if name == "UntypedStorage" else torch.serialization.StorageType(name)
        return _tensor if (module, name) == ("torch._utils", "_rebuild_tensor_v2") else _Ignored

    def persistent_load(self, pid: Any) -> StoredNumbers:
        _, kind, key, _, count = pid
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        if type(key) is not str or type(count) is not int or count < 0 or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"numbers {key!r} are not described as torch does")
        numbers = StoredNumbers(dtype=dtype, count=count)
        if self.found.setdefault(key, numbers).nbytes != numbers.nbytes:
            raise pickle.UnpicklingError(f"numbers {key!r} are of two sizes")
        return numbers


def _tensor(numbers: StoredNumbers, offset: int, size: tuple[int, ...], *rest: Any) -> _Ignored:
    """Stands for the building of a tensor: one that shows a number many times could claim any size."""
    if math.prod(size) > numbers.count:
        raise pickle.UnpicklingError(f"a tensor of size {tuple(size)} is made of {numbers.count:,} numbers")
    return _Ignored()


def stored_numbers(content: bytes) -> dict[str, StoredNumbers]:
    """The numbers that the pickle of a ``torch.save`` refers to, by the key that they are stored under.

    Raises:
        pickle.UnpicklingError, EOFError and others: it is damaged, or a tensor in it claims more than its numbers.
    """
    unpickler = _NumbersUnpickler(content)
    unpickler.load()
    return unpickler.found
