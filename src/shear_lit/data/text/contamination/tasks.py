"""The texts of evaluation tasks, from local files of questions, and how many words tell one of them."""

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.text.compression import opened
from shear_lit.data.text.contamination.words import words_of
from shear_lit.data.text.documents import parsed
from shear_lit.disk.names import expanded
from shear_lit.disk.records import one_line, shown

KEY = "decontaminate.files"
"""The key of the files, as ``prepare`` calls it."""

_MOST_BYTES = 1 << 30
_LINES, _TEXT = (".jsonl", ".ndjson", ".json"), (".txt", ".md", ".text")
_PERCENTILE = 0.05


@dataclass(frozen=True)
class Task:
    """The examples of one evaluation task."""

    name: str
    """What it is called in the manifest: its file, or a task of a suite."""
    examples: tuple[str, ...]
    """The text of each question."""

    def gram_words(self, least: int, most: int) -> int:
        """Words that a document must have in common with an example: the 5th percentile of their lengths, bounded.

        arXiv:2005.14165, appendix C, "Overlap methodology".
        """
        lengths = sorted(len(words_of(example)) for example in self.examples)
        percentile = lengths[int(_PERCENTILE * (len(lengths) - 1))] if lengths else most
        return min(most, max(least, percentile))


def tasks_of_files(patterns: Iterable[str], fields: Sequence[str]) -> list[Task]:
    """The tasks that lie in files; those with the same name once.

    Raises:
        DataError: a file is not there, cannot be read, or has no text in ``fields``.
    """
    found: dict[str, Task] = {}
    for pattern in patterns:
        for path in _files(pattern):
            found.setdefault(str(path), Task(str(path), tuple(_examples(path, fields))))
    return list(found.values())


def text_of_question(row: Any, fields: Sequence[str]) -> str:
    """The text of a question: that of each of its ``fields``, one after the other; empty if it has none of them."""
    values = (row.get(field) for field in fields) if isinstance(row, dict) else ()
    return "\n".join(text for value in values for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _files(pattern: str) -> list[Path]:
    path = expanded(pattern)
    matching = [path] if path.is_file() else [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    files = [one for one in matching if one.is_file()]
    if not files:
        raise DataError(
            f"{pattern!r}: no file matches it. Name files of questions, in JSONL, JSON or plain text.",
            key=KEY,
        )
    for file in files:
        if _kind(file) not in _LINES + _TEXT:
            raise DataError(
                f"{str(file)!r} is of no kind that questions are read from: {', '.join(_LINES + _TEXT)}, also "
                "compressed. Convert it, or narrow the list.",
                key=KEY,
            )
    return files


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix in _LINES + _TEXT), "")


def _examples(path: Path, fields: Sequence[str]) -> list[str]:
    content = _content(path)
    if _kind(path) in _TEXT:
        texts = [text for text in content.replace("\r\n", "\n").split("\n\n") if not text.isspace()]
        return [text for text in texts if text]
    rows = _rows(path, content)
    found = [text for row in rows if (text := text_of_question(row, fields))]
    if not found:
        has = sorted({name for row in rows if isinstance(row, dict) for name in row})
        raise DataError(
            f"{list(fields)!r}: no question of {str(path)!r} has text in these fields; it has {shown(has)}. Name those "
            "that are asked.",
            key="decontaminate.fields",
        )
    return found


def _content(path: Path) -> str:
    with opened(str(path)) as (_, file):
        content = file.read(_MOST_BYTES + 1)
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it holds more than {_MOST_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except ValueError as error:
        raise _unusable(path, error) from error


def _rows(path: Path, content: str) -> list[Any]:
    try:
        if content.lstrip()[:1] == "[":
            return list(json.loads(content))
        return [parsed(line) for line in content.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{str(path)!r} cannot be used ({one_line(error)}). Write one JSON object on each line.", key=KEY
    )
