"""Files of a model that was written before all programs could read it, written anew; tensors keep their bytes."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shear_lit.models.companions import readable_tokenizer_config
from shear_lit.models.huggingface import read_config, tensor_names
from shear_lit.models.registry import family_of
from shear_lit.models.source_files import CONFIG, INDEX, TOKENIZER_CONFIG, SourceError, read_entries
from shear_lit.models.weight_files import weight_files
from shear_lit.models.writing import write_config


def mend_config(directory: Path, into: Path) -> bool:
    """Write the ``config.json`` that all versions read into a folder; returns whether it says more than the present."""
    config = read_config(str(directory))
    present = read_entries(directory, CONFIG, str(directory))
    dtype = present.get("dtype") or present.get("torch_dtype") or "float32"
    write_config(into, config, dtype=str(dtype))
    mended = json.loads((into / CONFIG).read_text(encoding="utf-8"))
    # The version only says who wrote it.
    return {**mended, "transformers_version": ""} != {**present, "transformers_version": ""}


def mend_tokenizer(directory: Path, into: Path) -> bool:
    """Write a ``tokenizer_config.json`` that all versions read into a folder; returns whether the present is none."""
    file = directory / TOKENIZER_CONFIG
    if not file.is_file():
        return False
    entries = read_entries(directory, TOKENIZER_CONFIG, str(directory))
    readable = readable_tokenizer_config(entries)
    (into / TOKENIZER_CONFIG).write_text(
        json.dumps(readable, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return readable != entries


def mend_names(directory: Path, into: Path, source_names: frozenset[str]) -> list[str]:
    """Write the weight files in which tensors are called otherwise than in the source, and the index of them.

    Returns the names of the files that were written; others, and the bytes of every tensor, stay as they are.

    Raises:
        SourceError: the directory has no weights that can be read.
    """
    family = family_of(read_config(str(directory)))
    live = {stored: name for name, stored in family.stored_names.items()}
    renamed = {
        name: stored
        for name in tensor_names(str(directory))
        if (stored := family.stored_name(live.get(name, name), source_names)) != name
    }
    if not renamed:
        return []
    written = [
        path.name for path in weight_files(directory, str(directory)) if _rename_in(path, into, renamed)
    ]
    index = directory / INDEX
    if index.is_file():
        entries = read_entries(directory, INDEX, str(directory))
        entries["weight_map"] = {
            renamed.get(name, name): file for name, file in entries["weight_map"].items()
        }
        (into / INDEX).write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        written.append(INDEX)
    return written


def _rename_in(path: Path, into: Path, renamed: Mapping[str, str]) -> bool:
    with safe_open(path, framework="pt") as stored:
        names, metadata = set(stored.keys()), stored.metadata()
    if not names & renamed.keys():
        return False
    tensors = {renamed.get(name, name): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, into / path.name, metadata=metadata or {"format": "pt"})
    (into / path.name).chmod(path.stat().st_mode)
    return True


def check_is_model(directory: Path) -> None:
    """Refuse a place that holds no model, before anything is read.

    Raises:
        SourceError: it holds none.
    """
    if not directory.is_dir() or not (directory / CONFIG).is_file():
        raise SourceError(
            f"{str(directory)!r} is no model: it is no directory with a {CONFIG}. Name the directory of an export.",
            key="directory",
        )
