"""Where turns end in a model's directory: its template, and generation settings that know the token behind an answer.

A program stops generating at the ids of ``eos_token_id`` in generation_config.json (transformers, vLLM), or at those
that it knows by name (llama.cpp). A model that was tuned to end its turns by another token would talk on.
"""

import json
import logging
from pathlib import Path

from shear_lit.data.chat.templates import FILE, find_template
from shear_lit.data.errors import DataError
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.evaluation.chat_format import read_chat_format
from shear_lit.models.answering import ids_of
from shear_lit.models.source_files import CONFIG, GENERATION, TOKENIZER_CONFIG, read_entries

_ENDS, _TEMPLATE = "eos_token_id", "chat_template"
_log = logging.getLogger(__name__)


def ends_of_turns(directory: str) -> tuple[int, ...]:
    """The tokens that end an answer, by the template of a directory; none where it has none that can be used."""
    try:
        return tuple(sorted(read_chat_format(directory).ends))
    except DataError:
        return ()


def keep_template(directory: Path, template: str | None) -> None:
    """Have a directory hold the ``template`` that a model was tuned by, if it was, and stop where its turns end.

    A template that is the directory's own stays as it is, byte for byte.
    """
    if template is not None and template != _own(directory):
        (directory / FILE).write_text(template, encoding="utf-8")
        settings = directory / TOKENIZER_CONFIG
        if settings.is_file():
            entries = read_entries(directory, settings.name, str(directory))
            if entries.pop(_TEMPLATE, None) is not None:
                _write(settings, entries)
        _log.info("the export's chat template is the one that it was tuned by, not its source's")
    missing = [token for token in ends_of_turns(str(directory)) if token not in _stops(directory)]
    if missing:
        _write(
            directory / GENERATION,
            {**_entries(directory, GENERATION), _ENDS: [*_stops(directory), *missing]},
        )
        _log.info("the export's generation stops at token %s, too, which ends a turn", missing[0])


def _own(directory: Path) -> str | None:
    try:
        return find_template(tokenizer_of(str(directory))).source
    except DataError:
        return None


def _stops(directory: Path) -> list[int]:
    """The tokens at which generation stops as the directory says; where it does not say it, the config's."""
    own = ids_of(_entries(directory, GENERATION).get(_ENDS))
    return own or ids_of(_entries(directory, CONFIG).get(_ENDS))


def _entries(directory: Path, name: str) -> dict[str, object]:
    return read_entries(directory, name, str(directory)) if (directory / name).is_file() else {}


def _write(file: Path, entries: dict[str, object]) -> None:
    file.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
