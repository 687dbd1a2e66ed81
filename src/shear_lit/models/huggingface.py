"""Stock Hugging Face models read and built: safetensors only, no code from a model's repository, nothing made up."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shear_lit.models.choices import Attention
from shear_lit.models.source_config import check_config, check_entries
from shear_lit.models.source_files import (
    CONFIG,
    GENERATION,
    INDEX,
    KEY,
    SourceError,
    check_files,
    is_local,
    local_directory,
    read_entries,
    said,
)
from shear_lit.models.weight_files import (
    check_weights,
    first,
    has_weights,
    header_of,
    listed_tensors,
    refuse_other_kinds,
    stored_type,
    tensors_of,
    weight_files,
)

_MODEL_FILES = (CONFIG, GENERATION, "*.safetensors", INDEX)
_SAMPLE_BYTES = 65536
_OF_ODD_VALUES = (TypeError, KeyError, AttributeError, IndexError, AssertionError, ArithmeticError)
"""What classes of transformers raise where a value of a config is none."""


def read_config(source: str, *, also: Sequence[Path] = (), for_training: bool = True) -> PretrainedConfig:
    """The config of a model in a local directory or on the hub.

    What lies beside it in a local directory is looked at, too, as far as that can be without reading weights: so every
    command that reads a config refuses a model that none can use. ``also``: places outside the directory that its files
    may be links into, for views that this program makes. ``for_training``: whether a config with dropout is refused.

    Raises:
        SourceError: there is no config, or the model is damaged, quantised, or none that can be trained.
    """
    directory = local_directory(source, (CONFIG,))
    config = _config_in(directory, source, also, for_training=for_training)
    if is_local(source):
        refuse_other_kinds(directory, source)
        if has_weights(directory):
            check_weights(directory, config, source, also)
    return config


def _config_in(
    directory: Path, source: str, also: Sequence[Path] = (), *, for_training: bool = True
) -> PretrainedConfig:
    check_files(directory, source, also)
    if not (directory / CONFIG).exists():
        raise SourceError(
            f"{source!r} has no {CONFIG}: a Hugging Face model directory has one. "
            f"Name the directory that holds it and the weights.",
            key=KEY,
        )
    entries = read_entries(directory, CONFIG, source, also)
    check_entries(entries, source)
    kind = entries["model_type"]
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # whatever a class makes of values from elsewhere
        known = kind in CONFIG_MAPPING
        raise SourceError(
            f"{source!r}: its {CONFIG} cannot be read ({said(error)}). "
            + (
                f"A value in it is none that a {kind} model has: get the file again, or correct it."
                if known
                else "Only model types that the installed transformers knows by itself are read; code from a model's "
                "repository is never run."
            ),
            key=KEY,
        ) from error
    # A config may name one that is fetched from the hub and run.
    config._attn_implementation = None
    config.name_or_path = source
    check_config(config, source, for_training=for_training)
    return config


def config_of(entries: Mapping[str, Any]) -> PretrainedConfig:
    """The config whose ``to_dict`` gave ``entries``."""
    entries = dict(entries)
    config: PretrainedConfig = AutoConfig.for_model(entries.pop("model_type"), **entries)
    config._attn_implementation = None
    return config


def read_model(
    source: str,
    *,
    dtype: torch.dtype,
    attention: Attention = "sdpa",
    also: Sequence[Path] = (),
    for_training: bool = True,
) -> PreTrainedModel:
    """The model in a local directory or on the hub, with every weight found there and none made up.

    It is read into the memory of the CPU, also where torch is told to make tensors on another device.

    Raises:
        SourceError: as ``read_config``; or there are no safetensors weights, or they do not fit the config.
    """
    directory, config = _whole(source, also, for_training=for_training)
    try:
        # Lightning builds models in the context of the run's device, in which transformers reads with accelerate only.
        with torch.device("cpu"):
            read: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                config=config,
                dtype=dtype,
                attn_implementation=_implementation(attention),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError, *_OF_ODD_VALUES) as error:
        raise SourceError(
            f"{source!r}: its weights cannot be read ({said(error)}). They are damaged, half-copied, or for another "
            f"config. Get the model again.",
            key=KEY,
        ) from error
    model, report = read
    misfits = {kind: names for kind, names in report.items() if names and kind != "error_msgs"}
    if misfits:
        raise SourceError(
            f"{source!r}: its weights do not fit its {CONFIG}: "
            + "; ".join(f"{kind.replace('_', ' ')}: {first(names)}" for kind, names in misfits.items())
            + ". Every weight must be there once. Get the model again, or correct its config.",
            key=KEY,
        )
    return cast(PreTrainedModel, model)


def run_blocks_again(model: nn.Module, *, on: bool = True) -> None:
    """Let each block's forward run again during backward, which saves its activations, or no longer."""
    stock = cast(Any, model)
    if hasattr(stock, "activation_checkpointing_enable"):  # its newer name
        turn_on, turn_off = stock.activation_checkpointing_enable, stock.activation_checkpointing_disable
    else:
        turn_on, turn_off = stock.gradient_checkpointing_enable, stock.gradient_checkpointing_disable
    if on:
        turn_on({"use_reentrant": False})
    else:
        turn_off()


@contextmanager
def without_flash_attention(model: nn.Module) -> Iterator[None]:
    """Let a model compute in float32 within the block: flash attention, which cannot, gives way to sdpa."""
    stock = cast(PreTrainedModel, model)
    attention = stock.config._attn_implementation
    if attention != "flash_attention_2":
        yield
        return
    stock.set_attn_implementation("sdpa" if stock._supports_sdpa else "eager")
    try:
        yield
    finally:
        stock.set_attn_implementation(attention)


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
        found = "; ".join(f"{kind}: {first(names)}" for kind, names in wrong.items() if names)
        raise ValueError(f"the tensors are not those of the config: {found}")


def _whole(
    source: str, also: Sequence[Path] = (), *, for_training: bool = True
) -> tuple[Path, PretrainedConfig]:
    """The directory and the config of a model whose weights lie there and fit it, as far as headers tell."""
    directory = local_directory(source, _MODEL_FILES)
    config = _config_in(directory, source, also, for_training=for_training)
    check_weights(directory, config, source, also)
    return directory, config


def tensor_names(source: str) -> frozenset[str]:
    """The names of the tensors in the files of a model; empty where its weights do not lie here.

    Raises:
        SourceError: a file is damaged.
    """
    directory = local_directory(source, (INDEX,))
    refuse_other_kinds(directory, source)
    if not is_local(source) and (directory / INDEX).is_file():
        return listed_tensors(directory, source)
    return frozenset(tensors_of(directory, source)) if has_weights(directory) else frozenset()


def stored_dtype(source: str, *, for_training: bool = True) -> str:
    """What most numbers of a model's weights are stored in, as torch calls it, for a config that does not say it.

    Raises:
        SourceError: the model cannot be read.
    """
    directory, _ = _whole(source, for_training=for_training)
    return stored_type(tensors_of(directory, source))


def source_fingerprint(source: str, *, for_training: bool = True) -> str:
    """A hash that changes when the config or any tensor of a model does, without reading all of a large one.

    SHA-256 over the config's entries and, for every weight file, its size, its header (names, types and sizes) and
    the first 64 KiB of each tensor. A change that touches none of these bytes goes unseen; training touches them.

    Raises:
        SourceError: the model cannot be read.
    """
    directory, config = _whole(source, for_training=for_training)
    entries = config.to_dict()
    for stale in ("_name_or_path", "transformers_version"):
        entries.pop(stale, None)
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True, default=str).encode())
    for path in weight_files(directory, source):
        for part in _samples(path, source):
            digest.update(part)
    return digest.hexdigest()


def _samples(path: Path, source: str) -> Iterator[bytes]:
    """The parts of a safetensors file that the fingerprint reads."""
    yield f"{path.name} {path.stat().st_size}".encode()
    header = header_of(path, source)
    yield header.content
    with path.open("rb") as file:
        for name in sorted(header.tensors):
            tensor = header.tensors[name]
            file.seek(tensor.start)
            yield file.read(min(_SAMPLE_BYTES, tensor.end - tensor.start))
