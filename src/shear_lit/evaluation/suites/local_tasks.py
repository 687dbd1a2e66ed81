"""Tasks of one's own, from files of questions on this machine: three lines, or the harness's YAML without its code."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shear_lit.disk.names import expanded
from shear_lit.disk.reading import read_small
from shear_lit.disk.records import one_line, record_of
from shear_lit.evaluation.suites.errors import SuiteError
from shear_lit.evaluation.suites.harness_yaml import check_entries, check_task_name, reported_figure

_KEY = "suite"
_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_MOST_BYTES = 1 << 30
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_KINDS = ("multiple_choice", "cloze", "generation")
_QUESTION = "Question: {{question}}\nAnswer:"
_EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}


@dataclass(frozen=True, kw_only=True)
class LocalTask:
    """A task whose questions lie in files on this machine."""

    name: str
    """What it is called."""
    config: Mapping[str, Any]
    """What the harness is told of it; no part of it can run anything."""
    data: Mapping[str, str]
    """SHA-256 of each split's files."""
    metric: str
    """The figure that is reported."""
    filter: str = "none"
    """What takes the answer out of a generated text."""

    @property
    def shots(self) -> int:
        """Solved examples before each question."""
        return int(self.config.get("num_fewshot") or 0)


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """The short form: what is asked, how, and where the questions lie."""

    task: str
    kind: str
    data: str
    shots: int = 0
    examples: str | None = None
    prompt: str | None = None
    pattern: str | None = None
    metric: str | None = None
    longest: int | None = None


def is_local_task(entries: Mapping[str, Any]) -> bool:
    """Whether keys describe a task themselves, rather than name one of the harness."""
    return any(name in entries for name in ("kind", "data", "output_type", "dataset_path", "doc_to_text"))


def local_task(entries: Mapping[str, Any], folder: Path, where: str) -> LocalTask:
    """The task that keys in a file describe; paths are looked up beside that file.

    Raises:
        SuiteError: a key is not known or could run code, or the questions cannot be read or are malformed.
    """
    if "dataset_path" in entries or "output_type" in entries:
        return _of_harness(dict(entries), folder, where)
    return _of_lines(entries, folder, where)


def _of_lines(entries: Mapping[str, Any], folder: Path, where: str) -> LocalTask:
    try:
        lines = record_of(_Lines, dict(entries))
    except ValueError as error:
        raise SuiteError(f"{where}: {error}. Write `task`, `kind` and `data`.", key=_KEY) from error
    if lines.kind not in _KINDS:
        raise SuiteError(
            f"{where}: kind is {lines.kind!r}: one of {', '.join(_KINDS)}. Correct it.", key=_KEY
        )
    check_task_name(lines.task, where)
    for name in ("pattern", "longest"):
        if getattr(lines, name) is not None and lines.kind != "generation":
            raise SuiteError(
                f"{where}: {name} has no effect with kind={lines.kind}, which generates nothing. Remove it.",
                key=_KEY,
            )
    files = {"test": _file(lines.data, folder, where)}
    if lines.examples is not None:
        files["train"] = _file(lines.examples, folder, where)
    for path in files.values():
        _check_rows(path, lines.kind)
    makers = {"multiple_choice": _multiple_choice, "cloze": _cloze, "generation": _generation}
    config = makers[lines.kind](lines, next(_rows(files["test"])))
    if lines.prompt is not None:
        config["doc_to_text"] = lines.prompt
    if lines.longest is not None:
        config["generation_kwargs"]["max_gen_toks"] = lines.longest
    config |= {
        **{"task": lines.task, "dataset_path": _reader(files), "test_split": "test"},
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
        "fewshot_split": "train" if "train" in files else "test",
        "num_fewshot": lines.shots,
        "metadata": {"version": 1.0},
    }
    check_entries(config, where)
    metric, chosen = reported_figure(config, lines.metric, where)
    return LocalTask(name=lines.task, config=config, data=_digests(files), metric=metric, filter=chosen)


def _multiple_choice(lines: _Lines, row: Mapping[str, Any]) -> dict[str, Any]:
    answer = row["answer"]
    if isinstance(answer, int):
        target = "answer"
    elif answer in row["choices"]:
        target = "{{choices.index(answer)}}"
    else:
        target = f"{{{{'{_LETTERS}'.index(answer)}}}}"
    before = "{{passage}}\n" if "passage" in row else ""
    mean = {"aggregation": "mean", "higher_is_better": True}
    return {
        **{"output_type": "multiple_choice", "doc_to_text": before + _QUESTION},
        **{"doc_to_choice": "choices", "doc_to_target": target},
        "metric_list": [{"metric": "acc", **mean}, {"metric": "acc_norm", **mean}],
    }


def _cloze(lines: _Lines, row: Mapping[str, Any]) -> dict[str, Any]:
    """The last word of a text is asked for, as LAMBADA does."""
    return {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' ' + text.split(' ')[-1]}}",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        ],
    }


def _generation(lines: _Lines, row: Mapping[str, Any]) -> dict[str, Any]:
    """An answer is written greedily; with a pattern, both sides are compared by what its first group finds.

    Where a question has several answers, any of them counts, and examples show the first.
    """
    several = isinstance(row["answer"], list)
    config: dict[str, Any] = {
        "output_type": "generate_until",
        "doc_to_text": ("{{passage}}\n" if "passage" in row else "") + _QUESTION,
        "doc_to_target": "answer" if several else "{{answer}}",
        **({"fewshot_config": {"doc_to_target": "{{answer[0]}}"}} if several else {}),
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "temperature": 0.0},
        "metric_list": [{**_EXACT, "ignore_punctuation": True}],
    }
    if several and lines.pattern is not None:
        raise SuiteError(
            f"{lines.task}: pattern is for answers that are one text, and those here are lists. Remove it.",
            key=_KEY,
        )
    if lines.pattern is None:
        steps: list[dict[str, Any]] = [{"function": "remove_whitespace"}]
        config["filter_list"] = [{"name": "whole", "filter": [*steps, {"function": "take_first"}]}]
        return config
    steps = [{"function": "regex", "regex_pattern": lines.pattern}]
    whole = json.dumps(f"(?s)^.*?(?:{lines.pattern}).*$")
    return config | {
        "doc_to_target": f'{{{{answer|regex_replace({whole}, "\\\\1")}}}}',
        "fewshot_config": {"doc_to_target": "{{answer}}"},
        "generation_kwargs": {"until": ["Question:"], "do_sample": False, "temperature": 0.0},
        "metric_list": [{**_EXACT, "ignore_punctuation": False}],
        "filter_list": [{"name": "pattern", "filter": [*steps, {"function": "take_first"}]}],
    }


def _of_harness(entries: dict[str, Any], folder: Path, where: str) -> LocalTask:
    """A task in the harness's own words, whose data must lie here."""
    check_entries(entries, where)
    check_task_name(entries.get("task"), where)
    kind = entries.get("dataset_path")
    options = entries.get("dataset_kwargs")
    named = options.get("data_files") if isinstance(options, dict) else None
    if kind not in _READERS.values() or not named or set(options or {}) != {"data_files"}:
        raise SuiteError(
            f"{where}: dataset_path={kind!r}: a task of a file has its data in files beside it. Write "
            f"dataset_path: json (or parquet) and dataset_kwargs: {{data_files: {{test: FILE}}}}; name a task of the "
            f"harness by its name alone.",
            key=_KEY,
        )
    splits = named if isinstance(named, dict) else {"train": named}
    files = {
        str(split): [_file(name, folder, where) for name in ([names] if isinstance(names, str) else names)]
        for split, names in splits.items()
        if isinstance(names, str | list)
    }
    config = {
        **entries,
        "dataset_kwargs": {
            "data_files": {split: [str(path) for path in paths] for split, paths in files.items()}
        },
    }
    metric, chosen = reported_figure(config, None, where)
    digests = {split: "".join(_digest(path) for path in paths) for split, paths in files.items()}
    return LocalTask(name=str(entries["task"]), config=config, data=digests, metric=metric, filter=chosen)


# Files of questions


def _file(name: object, folder: Path, where: str) -> Path:
    path = (folder / expanded(str(name))).absolute()
    if not isinstance(name, str) or not path.is_file():
        raise SuiteError(
            f"{where}: the questions {str(name)!r} are no file on this machine (looked for {path}). Correct the "
            f"path; nothing is fetched for a task of a file.",
            key=_KEY,
        )
    if path.suffix not in _READERS:
        raise SuiteError(
            f"{where}: {str(name)!r} ends in {path.suffix!r}: .jsonl, .json or .parquet is expected. Convert it.",
            key=_KEY,
        )
    return path


def _reader(files: Mapping[str, Path]) -> str:
    kinds = {_READERS[path.suffix] for path in files.values()}
    if len(kinds) > 1:
        raise SuiteError(
            f"suite: {' and '.join(map(str, files.values()))} are of two kinds: data and examples are of one. "
            f"Convert one of them."
        )
    return kinds.pop()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    return {split: _digest(path) for split, path in files.items()}


def _rows(path: Path) -> Iterator[Any]:
    """The rows of a file of questions.

    Raises:
        SuiteError: it cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as parquet

            yield from parquet.read_table(path).to_pylist()
            return
        content = read_small(path, limit=_MOST_BYTES).decode("utf-8")
        if path.suffix == ".json":
            yield from json.loads(content)
            return
        # At line ends only: other signs that end a line for Python may stand inside a text.
        yield from (json.loads(line) for line in content.split("\n") if line.strip())
    except Exception as error:  # pyarrow has errors of its own
        raise SuiteError(
            f"{str(path)!r} cannot be read ({one_line(error)}). Correct the file.", key=_KEY
        ) from error


def _check_rows(path: Path, kind: str) -> None:
    kind_of: type = str
    number = 0
    for number, row in enumerate(_rows(path), start=1):
        if number == 1 and isinstance(row, dict) and isinstance(row.get("answer"), list):
            kind_of = list
        wrong = _wrong(row, kind, kind_of) if isinstance(row, dict) else "it is no group of keys"
        if wrong:
            raise SuiteError(f"{str(path)!r}, question {number}: {wrong}. Correct the file.", key=_KEY)
    if number == 0:
        raise SuiteError(f"{str(path)!r} has no question. Name a file that has some.", key=_KEY)


def _wrong(row: Mapping[str, Any], kind: str, kind_of: type) -> str:
    """What is wrong with a row; empty where nothing is. ``kind_of``: the type of the first row's answer."""
    if kind == "cloze":
        text = row.get("text")
        return (
            ""
            if isinstance(text, str) and " " in text.strip()
            else "`text` of at least two words is expected"
        )
    if not isinstance(row.get("question"), str) or "answer" not in row:
        return "`question` and `answer` are expected"
    if kind == "generation":
        return "" if _is_answer(row["answer"], kind_of) else "`answer` is text, or everywhere a list of texts"
    return _wrong_choice(row.get("choices"), row["answer"])


def _is_answer(answer: object, kind_of: type) -> bool:
    if not isinstance(answer, kind_of):
        return False
    return isinstance(answer, str) or (
        isinstance(answer, list) and bool(answer) and all(isinstance(each, str) for each in answer)
    )


def _wrong_choice(choices: object, answer: object) -> str:
    if (
        not isinstance(choices, Sequence)
        or len(choices) < 2
        or not all(isinstance(c, str) and c for c in choices)
    ):
        return "`choices` is a list of at least two texts"
    if isinstance(answer, int):
        return "" if 0 <= answer < len(choices) else f"`answer` is {answer}, and choices are counted from 0"
    letters = _LETTERS[: len(choices)]
    if answer in choices or (isinstance(answer, str) and len(answer) == 1 and answer in letters):
        return ""
    return f"`answer` is {answer!r}: a number from 0, a letter from A, or one of the choices"
