"""Stock Hugging Face models in and out: safetensors only, no code from a model's repository, nothing half-written."""

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from shear_lit.models.directories import new_directory
from shear_lit.models.verification import check_same_model

Precision = Literal["float32", "bfloat16", "float16"]
"""What the numbers of a saved model are stored in."""

Attention = Literal["eager", "sdpa", "flash_attention_2", "flex_attention"]
"""Which of transformers' attention implementations computes.

Where a model type has no ``sdpa`` (gemma2, which caps its scores), that stands for ``eager``, as in transformers.
"""

_CONFIG, _INDEX, _WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
_MODEL_FILES = (_CONFIG, "generation_config.json", "*.safetensors", _INDEX)
_TOKENIZER_FILES = (
    *("tokenizer.*", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.spm", "spiece.model", "chat_template.*", "additional_chat_templates/*"),
)
_LICENCE_FILES = ("license*", "licence*", "notice*", "copying*", "use_policy*")
_CARRIED_FILES = (*_TOKENIZER_FILES, *_LICENCE_FILES, "generation_config.json")
_SAMPLE_BYTES = 65536
_SHARD_SIZE = "5GB"


class SourceError(ValueError):
    """A model that cannot be read from where the user says it is."""


def read_config(source: str) -> PretrainedConfig:
    """The config of a model in a local directory or on the hub.

    Raises:
        SourceError: there is none.
    """
    directory = _local_directory(source, (_CONFIG,))
    if not (directory / _CONFIG).is_file():
        raise SourceError(
            f"model.source={source!r} has no {_CONFIG}: a Hugging Face model directory has one. "
            f"Name the directory that holds it and the weights."
        )
    try:
        return cast(PretrainedConfig, AutoConfig.from_pretrained(directory, trust_remote_code=False))
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"model.source={source!r}: its {_CONFIG} cannot be read ({error}). Only model types that the installed "
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
    directory = _local_directory(source, _MODEL_FILES)
    _weight_files(directory, source)
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
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(source, error) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # it derives from nothing narrower
            raise
        raise _unreadable(source, error) from error
    model, report = read
    misfits = {kind: names for kind, names in report.items() if names and kind != "error_msgs"}
    if misfits:
        raise SourceError(
            f"model.source={source!r}: its weights do not fit its {_CONFIG}: "
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
        empty = AutoModelForCausalLM.from_config(config)
    check_sizes(tensors, {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()})
    own_config = copy.deepcopy(config)
    own_config._attn_implementation = None  # that of a model which it may have come from
    model = type(empty).from_pretrained(
        None,
        config=own_config,
        state_dict={name: tensor.to(dtype) for name, tensor in tensors.items()},
        dtype=dtype,
        attn_implementation=_implementation(attention),
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


def write_model(
    directory: str | Path,
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    tokenizer_source: str,
    dtype: torch.dtype,
    extra_files: Mapping[str, str | bytes] | None = None,
) -> None:
    """Write a model that stock transformers loads: weights, config, and its source's tokenizer and licence.

    It is written beside ``directory``, read back, compared bit for bit, and only then given its name. Weights
    beyond 5 GB go into several files. Chat template, generation config and licence files are copied as they are.

    Raises:
        DirectoryError: ``directory`` is not empty, or its disk is too small.
        VerificationError: what was read back is not what was written.
    """
    needed_bytes = sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
    with new_directory(Path(directory), needed_bytes=needed_bytes) as partial:
        model = build_model(config, tensors, dtype=dtype)
        model.save_pretrained(partial, max_shard_size=_SHARD_SIZE)
        copy_companions(tokenizer_source, partial)
        for name, content in (extra_files or {}).items():
            (partial / name).write_bytes(content.encode() if isinstance(content, str) else content)
        for path in partial.glob("*.safetensors"):  # safetensors hides its files from other users
            path.chmod((partial / _CONFIG).stat().st_mode)
        written = read_model(str(partial), dtype=dtype)
        check_same_model(written, model, config.vocab_size, what="written against reloaded model")


def copy_companions(source: str, directory: Path) -> None:
    """Copy what belongs to a model besides its weights, as it is: tokenizer, chat template, licence."""
    origin = _local_directory(source, _CARRIED_FILES)
    for path in [*origin.glob("*"), *origin.glob("additional_chat_templates/*")]:
        name = path.relative_to(origin).as_posix()
        if path.is_file() and _matches(name, _CARRIED_FILES):
            (directory / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, directory / name)


def has_tokenizer(source: str) -> bool:
    """Whether tokenizer files lie beside the model."""
    origin = _local_directory(source, _TOKENIZER_FILES)
    return any((origin / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def licence_files(source: str) -> list[str]:
    """Names of the licence files beside a model."""
    origin = _local_directory(source, _LICENCE_FILES)
    return sorted(path.name for path in origin.iterdir() if _matches(path.name, _LICENCE_FILES))


def source_licence(source: str) -> dict[str, str]:
    """What the model card of ``source`` says of its licence: its entries that begin with ``license``."""
    card = _local_directory(source, ("README.md",)) / "README.md"
    if not card.is_file():
        return {}
    _, opening, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    try:
        entries = yaml.safe_load(rest.partition("\n---")[0]) if opening else None
    except yaml.YAMLError:
        return {}
    if not isinstance(entries, dict):
        return {}
    return {str(name): str(value) for name, value in entries.items() if str(name).startswith("license")}


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
    for path in _weight_files(_local_directory(source, _MODEL_FILES), source):
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


def _local_directory(source: str, patterns: tuple[str, ...]) -> Path:
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
            f"model.source={source!r} is no local directory, and the hub did not give it ({error}). Correct the name "
            f"or the path; without a network, name a directory or a model that is in the cache."
        ) from error


def _weight_files(directory: Path, source: str) -> list[Path]:
    index = directory / _INDEX
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


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    nested = "/" in name
    return any(
        fnmatch(name.lower(), pattern) and nested == ("/" in pattern) for pattern in patterns
    ) and not name.endswith(".py")


def _first(names: Any) -> str:
    """A few names, for a message."""
    listed = sorted(str(name) for name in names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _unreadable(source: str, error: Exception) -> SourceError:
    return SourceError(
        f"model.source={source!r}: its weights cannot be read ({error}). They are damaged, half-copied, or for "
        f"another config. Get the model again."
    )
