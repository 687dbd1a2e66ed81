"""What belongs to a model besides its weights and its config: tokenizer, chat template, generation, licence."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from shear_lit.disk.reading import read_small
from shear_lit.models.config_file import generation_entries
from shear_lit.models.source_files import (
    CONFIG,
    GENERATION,
    LICENCE_FILES,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    check_place,
    files_read,
    local_directory,
    read_entries,
)

_LICENCE_ENTRIES = ("license", "license_name", "license_link")
_CARRIED_FILES = (*TOKENIZER_FILES, *LICENCE_FILES, GENERATION)
_CARD = "README.md"
_MOST_LICENCES = 10
# The name that transformers 5 gives the class which reads tokenizer.json as it is, and the name that all versions know.
_GENERAL_CLASS = "PreTrainedTokenizerFast"
_CLASSES = {"TokenizersBackend": _GENERAL_CLASS}
# A list under the first name makes earlier versions fail; all versions read it under the second.
_MORE_TOKENS, _MORE_TOKENS_BEFORE = "extra_special_tokens", "additional_special_tokens"


def copy_companions(source: str, directory: Path) -> None:
    """Copy what belongs to a model besides its weights, byte for byte.

    A source that says in its config alone how to generate gets a ``generation_config.json`` that does, and a
    ``tokenizer_config.json`` that versions before transformers 5 refuse is written anew, in names that they know.

    Raises:
        SourceError: a file is a link to what does not belong to the model.
    """
    origin = local_directory(source, _CARRIED_FILES)
    for path in files_read(origin, _CARRIED_FILES):
        check_place(path, origin, source)
        if path.is_file():
            copy = directory / path.relative_to(origin)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    rewrite_tokenizer_config(directory / TOKENIZER_CONFIG)
    if not (directory / GENERATION).exists():
        _write_generation(source, directory / GENERATION)


def _write_generation(source: str, file: Path) -> None:
    entries = generation_entries(read_entries(local_directory(source, (CONFIG,)), CONFIG, source))
    file.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def rewrite_tokenizer_config(file: Path) -> bool:
    """Give a ``tokenizer_config.json`` names that every version knows; returns whether it had others."""
    if not file.is_file():
        return False
    entries = read_entries(file.parent, file.name, str(file.parent))
    readable = readable_tokenizer_config(entries)
    if readable == entries:
        return False
    file.write_text(json.dumps(readable, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def name_general_class(directory: Path) -> str:
    """Have ``tokenizer_config.json`` name the class that reads ``tokenizer.json`` as it is; returns what it named.

    Code that it names is not named any more: it is not copied.
    """
    file = directory / TOKENIZER_CONFIG
    entries = read_entries(directory, file.name, str(directory)) if file.is_file() else {}
    named = str(entries.get("tokenizer_class"))
    entries["tokenizer_class"] = _GENERAL_CLASS
    entries.pop("auto_map", None)
    file.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return named


def readable_tokenizer_config(entries: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer, in names that every version knows."""
    found = dict(entries)
    if found.get("tokenizer_class") in _CLASSES:
        found["tokenizer_class"] = _CLASSES[found["tokenizer_class"]]
    if isinstance(found.get(_MORE_TOKENS), list):
        found[_MORE_TOKENS_BEFORE] = found.pop(_MORE_TOKENS)
    return found


def has_tokenizer(source: str) -> bool:
    """Whether tokenizer files lie beside the model."""
    origin = local_directory(source, TOKENIZER_FILES)
    return any((origin / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def licence_files(source: str) -> list[str]:
    """Names of the licence files beside a model."""
    origin = local_directory(source, LICENCE_FILES)
    return sorted(path.name for path in files_read(origin, LICENCE_FILES) if path.is_file())


def source_licence(source: str) -> dict[str, str]:
    """What the model card of ``source`` says of its licence: its entries that begin with ``license``."""
    origin = local_directory(source, (_CARD,))
    try:
        check_place(origin / _CARD, origin, source)
        read_small(origin / _CARD)  # which is bounded
        entries = metadata_load(origin / _CARD) or {}
    except (
        OSError,
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ):  # somebody's page, of which nothing is needed
        return {}
    return {name: stated for name in _LICENCE_ENTRIES if (stated := _stated(entries.get(name)))}


def _stated(entry: object) -> str:
    """One name, or several; nothing else is a licence."""
    names = entry if isinstance(entry, list) and len(entry) <= _MOST_LICENCES else [entry]
    stated = [name for name in names if isinstance(name, str)]
    return ", ".join(stated) if len(stated) == len(names) else ""
