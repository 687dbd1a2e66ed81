"""A model written as a directory that stock transformers, of every version, and the programs around it load."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PretrainedConfig, __version__

from shear_lit.models.companions import copy_companions
from shear_lit.models.config_file import config_entries
from shear_lit.models.directories import new_directory
from shear_lit.models.family import Family
from shear_lit.models.huggingface import build_model, read_model, tensor_names
from shear_lit.models.registry import family_of
from shear_lit.models.source_files import CONFIG
from shear_lit.models.verification import check_same_model

WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".msgpack",
    ".h5",
    ".npz",
    ".onnx",
)
"""Ends of names that some program takes for a file of weights, whatever comes before them."""
_SHARD_SIZE = "5GB"
_HEAD = "lm_head.weight"


def write_model(
    directory: str | Path,
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    companions_of: str,
    dtype: torch.dtype,
    extra_files: Mapping[str, str | bytes] | None = None,
    check_companions: Callable[[Path], None] = lambda directory: None,
) -> None:
    """Write weights and config, with the tokenizer and the licence of the model ``companions_of``.

    It is written beside ``directory``, read back, compared bit for bit, and only then given its name. Weights
    beyond 5 GB go into several files. Tensors have the names that they have in ``companions_of``. What was copied of it
    is put right, or refused, by ``check_companions``.

    Raises:
        DirectoryError: ``directory`` is not empty, or its disk is too small.
        VerificationError: what was read back is not what was written.
    """
    extra_files = extra_files or {}
    assert not [name for name in extra_files if Path(name).suffix in WEIGHT_SUFFIXES], "taken for weights"
    needed_bytes = sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
    with new_directory(Path(directory), needed_bytes=needed_bytes) as partial:
        model = build_model(config, tensors, dtype=dtype)
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        stored = stored_tensors(parameters, family_of(config), tensor_names(companions_of))
        save_torch_state_dict(stored, partial, max_shard_size=_SHARD_SIZE)
        model.config.architectures = [type(model).__name__]
        write_config(partial, model.config, dtype=str(dtype).removeprefix("torch."))
        copy_companions(companions_of, partial)
        check_companions(partial)
        for name, content in extra_files.items():
            (partial / name).write_bytes(content.encode() if isinstance(content, str) else content)
        for path in partial.glob("*.safetensors"):  # safetensors hides its files from other users
            path.chmod((partial / CONFIG).stat().st_mode)
        written = read_model(str(partial), dtype=dtype)
        check_same_model(written, model, config.vocab_size, what="written against reloaded model")


def stored_tensors(
    parameters: Mapping[str, Tensor], family: Family, source_names: frozenset[str]
) -> dict[str, Tensor]:
    """Parameters under the names that the source's files have for them (none known: those of published weights).

    A tied head is stored a second time where the source does so: some programs ask for it.
    """
    stored = {family.stored_name(name, source_names): tensor for name, tensor in parameters.items()}
    head = family.stored_name(_HEAD, source_names)
    if head in source_names and head not in stored:
        stored[head] = parameters[f"{family.embedding}.weight"].clone()
    return stored


def write_config(directory: Path, config: PretrainedConfig, *, dtype: str) -> None:
    """Write the ``config.json`` that all versions read."""
    entries = {**config_entries(config, dtype=dtype), "transformers_version": __version__}
    text = json.dumps(entries, indent=2, sort_keys=True) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
