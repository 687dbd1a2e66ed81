"""What belongs to a model besides its weights and its config: tokenizer, chat template, generation, licence."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from shear_lit.models.config_file import generation_entries
from shear_lit.models.huggingface import CONFIG, local_directory

_TOKENIZER_FILES = (
    *("tokenizer.*", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.spm", "spiece.model", "chat_template.*", "additional_chat_templates/*"),
)
_LICENCE_FILES = ("license*", "licence*", "notice*", "copying*", "use_policy*")
_LICENCE_ENTRIES = ("license", "license_name", "license_link")
_GENERATION = "generation_config.json"
_CARRIED_FILES = (*_TOKENIZER_FILES, *_LICENCE_FILES, _GENERATION)
TOKENIZER_CONFIG = "tokenizer_config.json"
# The name that transformers 5 gives the class which reads tokenizer.json as it is, and the name that all versions know.
_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
# A list under the first name makes earlier versions fail; all versions read it under the second.
_MORE_TOKENS, _MORE_TOKENS_BEFORE = "extra_special_tokens", "additional_special_tokens"


def copy_companions(source: str, directory: Path) -> None:
    """Copy what belongs to a model besides its weights, byte for byte.

    A source that says in its config alone how to generate gets a ``generation_config.json`` that does, and a
    ``tokenizer_config.json`` that versions before transformers 5 refuse is written anew, in names that they know.
    """
    origin = local_directory(source, _CARRIED_FILES)
    for path in [*origin.glob("*"), *origin.glob("additional_chat_templates/*")]:
        name = path.relative_to(origin).as_posix()
        if path.is_file() and _matches(name, _CARRIED_FILES):
            (directory / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, directory / name)
    rewrite_tokenizer_config(directory / TOKENIZER_CONFIG)
    if not (directory / _GENERATION).exists():
        _write_generation(source, directory / _GENERATION)


def _write_generation(source: str, file: Path) -> None:
    config = local_directory(source, (CONFIG,)) / CONFIG
    entries = generation_entries(json.loads(config.read_text(encoding="utf-8")))
    file.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def rewrite_tokenizer_config(file: Path) -> bool:
    """Give a ``tokenizer_config.json`` names that every version knows; returns whether it had others."""
    if not file.is_file():
        return False
    entries = json.loads(file.read_text(encoding="utf-8"))
    readable = readable_tokenizer_config(entries)
    if readable == entries:
        return False
    file.write_text(json.dumps(readable, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


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
    origin = local_directory(source, _TOKENIZER_FILES)
    return any((origin / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def licence_files(source: str) -> list[str]:
    """Names of the licence files beside a model."""
    origin = local_directory(source, _LICENCE_FILES)
    return sorted(path.name for path in origin.iterdir() if _matches(path.name, _LICENCE_FILES))


def source_licence(source: str) -> dict[str, str]:
    """What the model card of ``source`` says of its licence: its entries that begin with ``license``."""
    card = local_directory(source, ("README.md",)) / "README.md"
    if not card.is_file():
        return {}
    try:
        entries = metadata_load(card) or {}
    except (yaml.YAMLError, ValueError):  # somebody's page, of which nothing is needed
        return {}
    return {name: str(entries[name]) for name in _LICENCE_ENTRIES if name in entries}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    nested = "/" in name
    return any(
        fnmatch(name.lower(), pattern) and nested == ("/" in pattern) for pattern in patterns
    ) and not name.endswith(".py")
