"""Stock Hugging Face models read and built: safetensors only, no code from a model's repository, nothing made up."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from shear_lit.mistakes import Mistake
from shear_lit.models.choices import Attention

CONFIG = "config.json"
INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"
_MODEL_FILES = (CONFIG, "generation_config.json", "*.safetensors", INDEX)
_SAMPLE_BYTES = 65536


class SourceError(Mistake):
    """A model that cannot be read from where the user says it is."""


def read_config(source: str) -> PretrainedConfig:
    """The config of a model in a local directory or on the hub.

    Raises:
        SourceError: there is none.
    """
    directory = local_directory(source, (CONFIG,))
    if not (directory / CONFIG).is_file():
        raise SourceError(
            f"model.source={source!r} has no {CONFIG}: a Hugging Face model directory has one. "
            f"Name the directory that holds it and the weights."
        )
    try:
        return cast(PretrainedConfig, AutoConfig.from_pretrained(directory, trust_remote_code=False))
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"model.source={source!r}: its {CONFIG} cannot be read ({error}). Only model types that the installed "
            f"transformers knows by itself are read; code from a model's repository is never run."
        ) from error


def config_of(entries: Mapping[str, Any]) -> PretrainedConfig:
    """The config whose ``to_dict`` gave ``entries``."""
    entries = dict(entries)
    return AutoConfig.for_model(entries.pop("model_type"), **entries)


def read_model(source: str, *, dtype: torch.dtype, attention: Attention = "sdpa") -> PreTrainedModel:
    """The model in a local directory or on the hub, with every weight found there and none made up.

    Raises:
        SourceError: there are no safetensors weights, or they do not fit the config.
    """
    config = read_config(source)
    directory = local_directory(source, _MODEL_FILES)
    weight_files(directory, source)
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation=_implementation(attention),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise _unreadable(source, error) from error
    model, report = read
    misfits = {kind: names for kind, names in report.items() if names and kind != "error_msgs"}
    if misfits:
        raise SourceError(
            f"model.source={source!r}: its weights do not fit its {CONFIG}: "
            + "; ".join(f"{kind.replace('_', ' ')}: {_first(names)}" for kind, names in misfits.items())
            + ". Every weight must be there once. Get the model again, or correct its config."
        )
    return cast(PreTrainedModel, model)


def build_model(
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    attention: Attention = "sdpa",
) -> PreTrainedModel:
    """The stock model of ``config`` around ``tensors``, which are copied only where they are of another dtype.

    ``tensors`` has every parameter once (a tied head is its embedding).

    Raises:
        ValueError: a tensor is missing, is not part of the model, or is of another size.
    """
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    check_sizes(tensors, {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()})
    own_config = copy.deepcopy(config)
    own_config._attn_implementation = None  # that of a model which it may have come from
    model = type(empty).from_pretrained(
        None,
        config=own_config,
        state_dict={name: tensor.to(dtype) for name, tensor in tensors.items()},
        dtype=dtype,
        attn_implementation=_implementation(attention),
        trust_remote_code=False,
    )
    return cast(PreTrainedModel, model)


def _implementation(attention: Attention) -> str | None:
    """Left to choose, transformers takes sdpa, and eager where there is none; asked for sdpa, it refuses there."""
    return None if attention == "sdpa" else attention


def check_sizes(tensors: Mapping[str, Tensor], sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are not, one for one, those of ``sizes``.

    Raises:
        ValueError: a tensor is missing, is not among them, or is of another size.
    """
    wrong = {
        "missing": sizes.keys() - tensors.keys(),
        "unknown": tensors.keys() - sizes.keys(),
        "of another size": {n for n in sizes.keys() & tensors.keys() if tuple(tensors[n].shape) != sizes[n]},
    }
    if any(wrong.values()):
        found = "; ".join(f"{kind}: {_first(names)}" for kind, names in wrong.items() if names)
        raise ValueError(f"the tensors are not those of the config: {found}")


def tensor_names(source: str) -> frozenset[str]:
    """The names of the tensors in the files of a model; empty where its weights do not lie here.

    Raises:
        SourceError: a file is damaged.
    """
    directory = local_directory(source, (INDEX,))
    if (directory / INDEX).is_file():
        return frozenset(json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"])
    if not (directory / _WEIGHTS).is_file():
        return frozenset()
    try:
        with safe_open(directory / _WEIGHTS, framework="pt") as stored:
            return frozenset(stored.keys())
    except SafetensorError as error:
        raise _unreadable(source, error) from error


def source_fingerprint(source: str) -> str:
    """A hash that changes when the config or any tensor of a model does, without reading all of a large one.

    SHA-256 over the config's entries and, for every weight file, its size, its header (names, types and sizes) and
    the first 64 KiB of each tensor. A change that touches none of these bytes goes unseen; training touches them.

    Raises:
        SourceError: the model cannot be read.
    """
    entries = read_config(source).to_dict()
    for stale in ("_name_or_path", "transformers_version"):
        entries.pop(stale, None)
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True, default=str).encode())
    for path in weight_files(local_directory(source, _MODEL_FILES), source):
        for part in _samples(path):
            digest.update(part)
    return digest.hexdigest()


def _samples(path: Path) -> Iterator[bytes]:
    """The parts of a safetensors file that the fingerprint reads (its layout: header length, header, tensors)."""
    yield f"{path.name} {path.stat().st_size}".encode()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
        yield header
        try:
            tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise _unreadable(str(path), error) from error
        for name in sorted(tensors):
            start, end = tensors[name]["data_offsets"]
            file.seek(8 + length + start)
            yield file.read(min(_SAMPLE_BYTES, end - start))


def local_directory(source: str, patterns: tuple[str, ...]) -> Path:
    """Where the files of ``source`` lie; those of a hub name that match ``patterns`` are fetched if need be."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or path.exists():
        raise SourceError(
            f"model.source={source!r} is no directory: a local Hugging Face model directory or a hub name "
            f"(organisation/model) is expected. Correct the path."
        )
    try:
        cases = [case(pattern) for pattern in patterns for case in (str, str.upper, str.capitalize)]
        return Path(
            snapshot_download(source, allow_patterns=cases, ignore_patterns=["consolidated*", "*.py"])
        )
    except (OSError, ValueError) as error:
        raise SourceError(
            f"model.source={source!r} is no local directory, and the hub did not give it "
            f"({' '.join(str(error).split())}). Correct the name or the path; without a network, name a directory or a "
            f"model that is in the cache."
        ) from error


def weight_files(directory: Path, source: str) -> list[Path]:
    """The safetensors files of a model: those that its index lists, or the only one.

    Raises:
        SourceError: one is missing.
    """
    index = directory / INDEX
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [directory / name for name in sorted(names)]
    else:
        files = [directory / _WEIGHTS]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        pickled = any(directory.glob("*.bin"))
        raise SourceError(
            f"model.source={source!r} lacks {_first(missing)}: weights are read from safetensors files only"
            + (", and its .bin files are pickles, which can run code" if pickled else "")
            + ". "
            + ("Convert it to safetensors." if pickled else "Copy the whole model there.")
        )
    return files


def _first(names: Any) -> str:
    """A few names, for a message."""
    listed = sorted(str(name) for name in names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _unreadable(source: str, error: Exception) -> SourceError:
    return SourceError(
        f"model.source={source!r}: its weights cannot be read ({error}). They are damaged, half-copied, or for "
        f"another config. Get the model again."
    )
