"""The weights of a model as they lie in safetensors files: which files, and what their headers say.

The layout: 8 bytes with the length of the header, the header (JSON: type, sizes, place of every tensor), the tensors.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from transformers import PretrainedConfig

from shear_lit.disk.names import is_plain_name
from shear_lit.disk.reading import parse_json
from shear_lit.models.source_files import (
    CONFIG,
    INDEX,
    KEY,
    WEIGHTS,
    SourceError,
    check_place,
    read_entries,
    said,
)

_HEADER_BYTES = 16 * 1024**2
"""The most that is read of a header: about a hundred bytes a tensor are usual."""
_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1},
    **{"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}
_NUMBERS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of weights, and what torch calls them."""
_BUFFERS = (".attention.bias", ".position_ids")
"""Ends of names of what older files hold beside weights: masks and positions, which no model reads any more."""
_OTHER_KINDS = {
    ".bin": "its .bin files are pickles, which can run code. Convert it to safetensors.",
    ".pt": "its .pt files are pickles, which can run code. Convert it to safetensors.",
    ".pth": "its .pth files are pickles, which can run code. Convert it to safetensors.",
    ".gguf": "its .gguf files hold rounded numbers for another program. Get the Hugging Face model that they were "
    "made of, with safetensors files.",
    ".h5": "its .h5 files are TensorFlow's. Convert it to safetensors.",
    ".msgpack": "its .msgpack files are Flax's. Convert it to safetensors.",
}
_BLOCK = re.compile(r"^(?:model\.|gpt_neox\.)?layers\.(\d+)\.")
_MORE_BLOCKS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
"""Entries of models, of which there is no table, whose files hold blocks that num_hidden_layers does not count."""
_EMBEDDINGS, _HEADS = ("embed_tokens.weight", "embed_in.weight"), ("lm_head.weight", "embed_out.weight")
_PIECE = 4 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a tensor lies, and what it is."""

    file: Path
    """The file."""
    dtype: str
    """Type of its numbers, as safetensors calls it."""
    shape: tuple[int, ...]
    """Its size."""
    start: int
    """Its first byte in the file."""
    end: int
    """The byte after its last."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the beginning of a safetensors file says."""

    content: bytes
    """It, byte for byte."""
    tensors: Mapping[str, Stored]
    """The tensors by name."""


def has_weights(directory: Path) -> bool:
    """Whether there are safetensors files that a model can be read from."""
    return (directory / INDEX).is_file() or (directory / WEIGHTS).is_file()


def weight_files(directory: Path, source: str, also: Sequence[Path] = ()) -> list[Path]:
    """The safetensors files of a model: those that its index lists, or the only one.

    Raises:
        SourceError: one is missing, the index is damaged, or there are two sets of weights.
    """
    names = sorted(set(_weight_map(directory, source, also).values())) or [WEIGHTS]
    if names != [WEIGHTS] and (directory / WEIGHTS).is_file():
        raise SourceError(
            f"{source!r} has its weights twice, in {WEIGHTS} and in the {len(names)} files that {INDEX} lists: some "
            f"programs read the one and some the others. Remove {WEIGHTS}, or {INDEX} and the files that it lists.",
            key=KEY,
        )
    files = [directory / name for name in names]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise SourceError(f"{source!r} lacks {first(missing)}: {_instead(directory)}", key=KEY)
    for path in files:
        check_place(path, directory, source, also)
    return files


def refuse_other_kinds(directory: Path, source: str) -> None:
    """Refuse a directory whose weights are all in files of other kinds.

    Raises:
        SourceError: there is no safetensors file, and one of another kind.
    """
    if not has_weights(directory) and _other_kind(directory) is not None:
        raise SourceError(f"{source!r} lacks {WEIGHTS}: {_instead(directory)}", key=KEY)


def _instead(directory: Path) -> str:
    kind = _other_kind(directory)
    only = "weights are read from safetensors files only"
    return f"{only}. Copy the whole model there." if kind is None else f"{only}, and {_OTHER_KINDS[kind]}"


def _other_kind(directory: Path) -> str | None:
    return next((suffix for suffix in _OTHER_KINDS if any(directory.glob(f"*{suffix}"))), None)


def listed_tensors(directory: Path, source: str) -> frozenset[str]:
    """The names of the tensors that the index of a model lists; none without an index, whatever else is there.

    Raises:
        SourceError: it is damaged.
    """
    return frozenset(_weight_map(directory, source))


def _weight_map(directory: Path, source: str, also: Sequence[Path] = ()) -> dict[str, str]:
    """The file of every tensor, as the index says; empty without an index.

    Raises:
        SourceError: it is damaged, or names something else than files beside it.
    """
    if not (directory / INDEX).is_file():
        return {}
    found = read_entries(directory, INDEX, source, also).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise SourceError(
            f"{source!r}: its {INDEX} has no weight_map, which says in which file each tensor is. Get the file again.",
            key=KEY,
        )
    odd = [file for file in found.values() if not is_plain_name(file) or not file.endswith(".safetensors")]
    if odd:
        raise SourceError(
            f"{source!r}: its {INDEX} names {odd[0]!r}, which is no safetensors file beside it. Get the file again.",
            key=KEY,
        )
    return found


def tensors_of(directory: Path, source: str, also: Sequence[Path] = ()) -> dict[str, Stored]:
    """Every tensor in the files of a model, by name.

    Raises:
        SourceError: a file is missing or damaged, or holds other tensors than the index says.
    """
    found: dict[str, Stored] = {}
    for path in weight_files(directory, source, also):
        for name, tensor in header_of(path, source).tensors.items():
            if name in found:
                raise SourceError(
                    f"{source!r} has the tensor {name} twice, in {found[name].file.name} and in {path.name}. "
                    f"Get the model again.",
                    key=KEY,
                )
            found[name] = tensor
    listed = _weight_map(directory, source, also)
    lost = [name for name, file in listed.items() if name not in found or found[name].file.name != file]
    if lost:
        raise SourceError(
            f"{source!r}: its {INDEX} says that {first(lost)} would be in {listed[lost[0]]}, which does not hold it. "
            f"Get the model again.",
            key=KEY,
        )
    return found


def stored_type(tensors: Mapping[str, Stored]) -> str:
    """What most numbers of a model are stored in, as torch calls it; of equally many, the more exact type.

    A few tensors may be of another: norms in float32 beside bfloat16 are usual.
    """
    counts = dict.fromkeys(_NUMBERS, 0)
    for tensor in tensors.values():
        if tensor.dtype in counts:
            counts[tensor.dtype] += math.prod(tensor.shape)
    return _NUMBERS[max(counts, key=lambda kind: counts[kind])]


def header_of(path: Path, source: str) -> Header:
    """What a safetensors file says that it holds, once that is known to be there.

    Raises:
        SourceError: the file is damaged, or holds numbers that no model is read from.
    """
    try:
        header = _parsed(path)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{source!r}: its {path.name} cannot be read ({said(error)}). It is damaged or half-copied. "
            f"Get the file again.",
            key=KEY,
        ) from error
    for name, tensor in header.tensors.items():
        if tensor.dtype not in _NUMBERS and not name.endswith(_BUFFERS):
            raise SourceError(
                f"{source!r}: {name} in {path.name} is stored as {tensor.dtype}: rounded weights are not pruned, and "
                f"training needs one of {', '.join(_NUMBERS)}. Use the model before it was quantised.",
                key=KEY,
            )
    return header


def _parsed(path: Path) -> Header:
    """The header of a file; ValueError says what is wrong with it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + 2:
            raise ValueError(f"it has {size} bytes" if size else "it is empty")
        if length > size - 8:
            raise ValueError(f"its header is said to have {length:,} bytes, and the file has {size:,}")
        if length > _HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes, and one has at most {_HEADER_BYTES:,}")
        content = file.read(length)
    entries = parse_json(content)
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    tensors = {
        name: _stored(path, name, entry, begin=8 + length)
        for name, entry in entries.items()
        if name != "__metadata__"
    }
    if not tensors:
        raise ValueError("it holds no tensor")
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != end:
            raise ValueError(f"{name} overlaps another tensor, or leaves a gap before it")
        end = tensor.end
    if end != size:
        raise ValueError(f"its tensors end at byte {end:,}, and the file has {size:,}")
    return Header(content=content, tensors=tensors)


def _stored(path: Path, name: str, entry: Any, *, begin: int) -> Stored:
    odd = ValueError(f"its header does not say what {name!r} is")
    if not isinstance(entry, dict):
        raise odd
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise odd
    start, end = offsets
    if end < start or (dtype in _BYTES and end - start != math.prod(shape) * _BYTES[dtype]):
        raise ValueError(f"{name} has {end - start} bytes, which are not those of {dtype} {shape}")
    return Stored(file=path, dtype=dtype, shape=tuple(shape), start=begin + start, end=begin + end)


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(number) is int and 0 <= number < 2**63 for number in value)
    )


def check_weights(directory: Path, config: PretrainedConfig, source: str, also: Sequence[Path] = ()) -> None:
    """See whether the weights that lie in a directory are those that the config describes, as far as headers tell.

    Raises:
        SourceError: they are not, or cannot be read.
    """
    tensors = tensors_of(directory, source, also)
    _check_blocks(tensors, config, source)
    _check_embedding(tensors, config, source)
    _check_head(tensors, config, source)


def _check_blocks(tensors: Mapping[str, Stored], config: PretrainedConfig, source: str) -> None:
    blocks = {int(found[1]) for name in tensors if (found := _BLOCK.search(name))}
    stated = getattr(config, "num_hidden_layers", None)
    if not blocks or not isinstance(stated, int) or any(name in config.to_dict() for name in _MORE_BLOCKS):
        return
    if blocks != set(range(stated)):
        raise SourceError(
            f"{source!r}: its {CONFIG} says num_hidden_layers={stated}, and its weights are of {len(blocks)} blocks. "
            f"Get the model again, or correct its config.",
            key=KEY,
        )


def _check_embedding(tensors: Mapping[str, Stored], config: PretrainedConfig, source: str) -> None:
    name = _named(tensors, _EMBEDDINGS)
    sizes = tuple(getattr(config, entry, None) for entry in ("vocab_size", "hidden_size"))
    if name is not None and None not in sizes and tensors[name].shape != sizes:
        raise SourceError(
            f"{source!r}: its weights do not fit its {CONFIG}: vocab_size={sizes[0]} and hidden_size={sizes[1]}, and "
            f"{name} has the size {list(tensors[name].shape)}. Get the model again, or correct its config.",
            key=KEY,
        )


def _check_head(tensors: Mapping[str, Stored], config: PretrainedConfig, source: str) -> None:
    """A head of its own under a config that ties it would be trained, or left out, depending on who reads it."""
    embedding, head = _named(tensors, _EMBEDDINGS), _named(tensors, _HEADS)
    if embedding is None:
        return
    if not config.tie_word_embeddings:
        if head is None:
            raise SourceError(
                f"{source!r}: its weights do not fit its {CONFIG}: missing keys: {_HEADS[0]}, which "
                f"tie_word_embeddings=false asks for. Get the model again, or, if its head is its embedding, say "
                f'"tie_word_embeddings": true there.',
                key=KEY,
            )
        return
    if head is not None and not _same_bytes(tensors[embedding], tensors[head]):
        raise SourceError(
            f"{source!r}: its {CONFIG} ties the head to the embedding (tie_word_embeddings=true, by default for "
            f"some model types), and its {head} is another matrix than {embedding}. Say "
            f'"tie_word_embeddings": false there, or take {head} out of the weights.',
            key=KEY,
        )


def _named(tensors: Mapping[str, Stored], ends: tuple[str, ...]) -> str | None:
    return next(
        (name for name in tensors if name in ends or name.endswith(tuple(f".{end}" for end in ends))), None
    )


def _same_bytes(one: Stored, other: Stored) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return _compared(one, other, *(_stamp(tensor.file) for tensor in (one, other)))


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=16)
def _compared(one: Stored, other: Stored, *stamps: tuple[int, ...]) -> bool:
    """Whether two tensors are equal bit for bit; asked again of files that did not change, it is known."""
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        remaining = one.end - one.start
        while remaining:
            count = min(_PIECE, remaining)
            if left.read(count) != right.read(count):
                return False
            remaining -= count
    return True


def first(names: Any) -> str:
    """A few names, for a message."""
    listed = sorted(str(name) for name in names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
