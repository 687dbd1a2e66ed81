"""Which clients read what this package writes, and compute the same? Every cell is a source, its export, and a client.

    python benchmarks/clients.py --work runs/clients --environments .clients

A directory of ``--environments`` is the virtual environment of the client that it is named after (``vllm``,
``llama.cpp``, ``transformers-4.57``, ...); ``make clients`` builds them. transformers is asked in this interpreter,
too. Sources are written by transformers 4.57 (its environment is needed) and by this interpreter's, with random
weights; all five axes are cut by `shear-lit export --gates`. A client's logits of the source are compared with the
writer's, and those of the export with the ones that stock transformers has of it here.

What is done is not done again: sources stay as long as their description does, exports as long as the package's code
that writes them does, and answers as long as the client's version and the code that asks it do. ``--results`` writes
the table with every cell's figure, ``--table`` the compact one that the package reads. Prints one JSON line.
"""

import argparse
import datetime
import hashlib
import io
import json
import math
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import client_sources
from client_cells import FAMILIES, TOKENS, Cell, Source, all_cells
from machine import machine
from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.demo.source import fetch_source
from shear_lit.commands.export import export
from shear_lit.data.tokens.tokenizer import load_tokenizer
from shear_lit.evaluation.clients import asking
from shear_lit.evaluation.clients.asking import (
    CLIENTS,
    Answer,
    ClientName,
    Job,
    ask,
    check_installed,
    read_answers,
)
from shear_lit.evaluation.clients.comparison import TOLERANCE, Expected, difference
from shear_lit.models.huggingface import read_model, source_fingerprint
from shear_lit.ranking.scores import Origin, scores_file
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import Axis

REPOSITORY = Path(__file__).parent.parent
SMALL_VOCABULARY = 512
SECONDS_PER_JOB = 180.0
READS, REFUSES, WRONG, NOT_EXPORTED = "reads", "refuses", "wrong", "not exported"


@dataclass(frozen=True)
class Environment:
    """A client in an interpreter."""

    name: str
    """What the tables call it: the client and, of transformers, its version."""
    client: ClientName
    python: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a client made of one directory."""

    verdict: str
    figure: float | None = None
    said: str = ""

    def __str__(self) -> str:
        if self.figure is None:
            return f"{self.verdict}: {self.said}" if self.said else self.verdict
        return f"{self.verdict} {self.figure:.1e}"


class Work:
    """The places of what is kept between runs."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.sources = self.root / "sources"
        self.exports = self.root / f"exports-{_hash(*writing_code())}"
        self.answers = self.root / "answers"
        for directory in (self.sources, self.exports, self.answers):
            directory.mkdir(parents=True, exist_ok=True)

    @cached_property
    def small_tokenizer(self) -> tuple[Path, ...]:
        """A SentencePiece model of few pieces, trained on syllables, and the same in the form of fast tokenizers."""
        directory = self.root / "syllables-tokenizer"
        if not directory.exists():
            partial = self.root / "syllables-tokenizer.partial"
            partial.mkdir(exist_ok=True)
            _train_pieces(partial / "tokenizer.model")
            fast: Any = load_tokenizer(str(partial / "tokenizer.model"))
            fast.backend.save(str(partial / "tokenizer.json"))
            _write_tokenizer_config(partial, bos="<s>", eos="</s>", unknown="<unk>")
            partial.rename(directory)
        return tuple(sorted(directory.iterdir()))

    @cached_property
    def large_tokenizer(self) -> tuple[Path, ...]:
        """SmolLM2's, whose way of splitting llama.cpp's converter knows, in the form that every transformers reads."""
        directory = self.root / "smollm2-tokenizer"
        if not directory.exists():
            partial = self.root / "smollm2-tokenizer.partial"
            partial.mkdir(exist_ok=True)
            shutil.copy(fetch_source(default_cache()) / "tokenizer.json", partial)
            _write_tokenizer_config(partial, bos="<|im_start|>", eos="<|im_end|>", unknown="<|endoftext|>")
            partial.rename(directory)
        return tuple(sorted(directory.iterdir()))

    def source(self, source: Source) -> dict[str, Any]:
        """A line for ``client_sources.py``."""
        small = FAMILIES[source.family].sentencepiece
        files = self.small_tokenizer if small else self.large_tokenizer
        vocabulary = SMALL_VOCABULARY if small else _vocabulary_of(files)
        described = {
            "model_type": source.family,
            "entries": source.entries(vocabulary),
            "made_smaller": FAMILIES[source.family].made_smaller,
            "files": [str(file) for file in files],
            "tokens": probe_tokens(vocabulary),
        }
        name = f"{source}-{_hash(Path(client_sources.__file__), *files, extra=json.dumps(described, default=str))}"
        return {
            "directory": str(self.sources / name),
            "logits": str(self.sources / f"{name}.npy"),
            **described,
        }

    def export(self, cell: Cell) -> Path:
        return self.exports / str(cell)


def _train_pieces(file: Path) -> None:
    """Write a small SentencePiece model: its logits are few, and every converter takes it."""
    from sentencepiece import SentencePieceTrainer

    lot, model = random.Random(0), io.BytesIO()
    syllables = [first + second for first in "bcdfghklmnprstvw" for second in "aeiou"]
    words = ["".join(lot.choices(syllables, k=lot.randint(1, 4))) for _ in range(900)]
    SentencePieceTrainer.train(
        sentence_iterator=(" ".join(lot.choices(words, k=20)) for _ in range(2000)),
        model_writer=model,
        vocab_size=SMALL_VOCABULARY,
        control_symbols=["<|endoftext|>"],  # llama.cpp looks for it in models that are called phi3
        model_type="bpe",
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
    )
    file.write_bytes(model.getvalue())


def _write_tokenizer_config(directory: Path, *, bos: str, eos: str, unknown: str) -> None:
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unknown,
        "model_max_length": 8192,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _vocabulary_of(files: tuple[Path, ...]) -> int:
    (file,) = (file for file in files if file.name == "tokenizer.json")
    pieces = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    return 1 + int(max(pieces.values()))


def writing_code() -> list[Path]:
    """The package's files, but for those that only look at what was written."""
    package = REPOSITORY / "src" / "shear_lit"
    return sorted(
        path
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "evaluation" and path.name != "verify.py"
    )


def _hash(*files: Path, extra: str = "") -> str:
    digest = hashlib.sha256(extra.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]


def probe_tokens(vocabulary: int) -> list[int]:
    lot = random.Random(1)
    return [lot.randrange(3, vocabulary) for _ in range(TOKENS)]


def write_sources(work: Work, sources: list[Source], writers: dict[str, str]) -> None:
    """Have each version of transformers write its own."""
    for writer, python in writers.items():
        lines = [json.dumps(work.source(source)) + "\n" for source in sources if source.writer == writer]
        jobs = work.root / f"sources-{writer}.jsonl"
        jobs.write_text("".join(lines), encoding="utf-8")
        subprocess.run([python, "-P", client_sources.__file__, str(jobs)], check=True)


def write_export(work: Work, cell: Cell) -> None:
    """Cut the source to the target, and keep the logits that stock transformers has of the result; or why not."""
    output = work.export(cell)
    logits, failure, scores = (output.with_name(f"{cell}{end}") for end in (".npy", ".error", ".scores"))
    if logits.exists() or failure.exists():
        return
    shutil.rmtree(output, ignore_errors=True)
    source = work.source(cell.source)
    scores.write_bytes(scores_of(cell, source["directory"]))
    try:
        export(gates=str(scores), output=str(output), target=cell.target, write_as=cell.write_as)
        model = read_model(str(output), dtype=torch.float32, attention="eager").eval()
    except ValueError as error:
        failure.write_text(" ".join(str(error).split()), encoding="utf-8")
        return
    np.save(logits, client_sources.logits_of(model, source["tokens"]))


def scores_of(cell: Cell, source: str) -> bytes:
    """A file of scores by lot that keeps the cell's blocks."""
    shape = cell.source.shape
    importance = keyed_uniform(shape, tuple(Axis), key=(1, 0, 0))
    importance[Axis.LAYERS] = torch.zeros(shape.layers)
    importance[Axis.LAYERS][list(cell.kept_layers)] = 1.0
    origin = Origin(
        source=source,
        source_fingerprint=source_fingerprint(source),
        source_shape=shape,
        criterion="random",
    )
    return scores_file(importance, origin)


def environments(directory: Path | None, only: list[str] | None) -> list[Environment]:
    """This interpreter's transformers, and a client for every environment that is named after one."""
    places = {"transformers": sys.executable}
    if directory is not None:
        places |= {path.parent.parent.name: str(path) for path in sorted(directory.glob("*/bin/python"))}
    found = []
    for name, python in places.items():
        client: Any = name.partition("-")[0]
        if client in CLIENTS and (only is None or name in only):
            found.append(Environment(name, client, python, check_installed(client, python)))
    missing = set(only or ()) - {environment.name for environment in found}
    if missing:
        raise SystemExit(f"--clients {' '.join(sorted(missing))}: no such environment in {directory}")
    return found


def ask_client(work: Work, environment: Environment, wanted: dict[str, list[int]]) -> dict[str, Answer]:
    """The answers of a client for every directory, old ones first."""
    code = _hash(
        *(Path(asking.__file__).with_name(name) for name in ("answering.py", CLIENTS[environment.client]))
    )
    file = work.answers / f"{environment.name}-{environment.version}-{code}.jsonl"
    answered = {answer.directory for answer in read_answers(file)}
    jobs = [
        Job(
            directory=directory,
            tokens=[tokens],
            logits=str(work.answers / f"{environment.name}-{_hash(extra=directory)}.npy"),
        )
        for directory, tokens in wanted.items()
        if directory not in answered
    ]
    if jobs:
        ask(environment.client, environment.python, jobs, answers=file, seconds_per_job=SECONDS_PER_JOB)
    return {answer.directory: answer for answer in read_answers(file)}


def outcome(answer: Answer | None, logits: Path) -> Outcome:
    """What one answer is worth."""
    if answer is None:
        return Outcome(verdict=REFUSES, said="its program ended before it answered")
    if answer.error is not None:
        return Outcome(verdict=REFUSES, said=answer.error.partition(". ")[0])
    figure = difference(answer, Expected(logits=np.load(logits))).figure
    if not math.isfinite(figure):
        return Outcome(verdict=WRONG, said="another vocabulary, or logits that are not finite")
    return Outcome(verdict=READS if figure <= TOLERANCE else WRONG, figure=figure)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell in one client."""

    cell: Cell
    environment: Environment
    source: Outcome
    export: Outcome


def rows_of(work: Work, cells: list[Cell], environment: Environment) -> Iterator[Row]:
    """All cells in one client."""
    sources = {cell.source: work.source(cell.source) for cell in cells}
    wanted = {line["directory"]: line["tokens"] for line in sources.values()}
    written = [cell for cell in cells if work.export(cell).is_dir()]
    wanted |= {str(work.export(cell)): sources[cell.source]["tokens"] for cell in written}
    answers = ask_client(work, environment, wanted)
    for cell in cells:
        line, output = sources[cell.source], work.export(cell)
        failure = output.with_name(f"{cell}.error")
        yield Row(
            cell=cell,
            environment=environment,
            source=outcome(answers.get(line["directory"]), Path(line["logits"])),
            export=Outcome(verdict=NOT_EXPORTED, said=failure.read_text(encoding="utf-8"))
            if failure.exists()
            else outcome(answers.get(str(output)), output.with_name(f"{cell}.npy")),
        )


def compact(rows: list[Row]) -> list[dict[str, Any]]:
    """One entry for each family, rope, width, kinds of blocks and client.

    Of the sources the form that is read best, of the exports the one that is read worst: what was lost is not hidden
    by a client that cannot read one of the two forms of the source either.
    """
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        cell = row.cell
        rope = cell.source.kind_of_rope
        groups[cell.written_family, rope, cell.width, cell.period, row.environment.name].append(row)
    entries = []
    for (family, rope, width, period, client), group in groups.items():
        source = min((row.source for row in group), key=_how_bad)
        worst = max((row.export for row in group), key=_how_bad)
        entries.append(
            {
                "family": family,
                "rope": rope,
                "width": width,
                "period": period,
                "client": client,
                "version": group[0].environment.version,
                "source": source.verdict,
                "export": worst.verdict,
                "figure": None if worst.figure is None else float(f"{worst.figure:.2g}"),
                "said": worst.said,
            }
        )
    return entries


def _how_bad(found: Outcome) -> tuple[int, float]:
    return (READS, NOT_EXPORTED, REFUSES, WRONG).index(found.verdict), found.figure or 0.0


def write_table(file: Path, rows: list[Row]) -> None:
    """The table that the package reads: one line for each entry. What is known of clients not asked now stays."""
    asked = {row.environment.name for row in rows}
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    entries = [*compact(rows), *(entry for entry in known if entry["client"] not in asked)]
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_results(file: Path, rows: list[Row], facts: dict[str, Any]) -> None:
    """The page with every cell's figure."""
    names = list(dict.fromkeys(row.environment.name for row in rows))
    versions = {row.environment.name: row.environment.version for row in rows}
    by_cell: dict[Cell, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_cell[row.cell][row.environment.name] = row
    notes: dict[str, int] = {}

    def shown(found: Outcome) -> str:
        if not found.said:
            return str(found)
        number = notes.setdefault(found.said, len(notes) + 1)
        return f"{found.verdict} [{number}]"

    lines = [
        "# Clients: who reads what is written, and computes the same",
        "",
        f"Command: `{facts['command']}`; commit {facts['commit']}, {facts['date']}.",
        f"{facts['cores']} cores, {facts['processor']}; torch {facts['torch']}. "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". {facts['seconds']:.0f} seconds for what was not done before.",
        "",
        f"Figures: max |difference| of float32 logits over {TOKENS} tokens, as a fraction of the largest logit; up to "
        f"{TOLERANCE:g} a client `reads` it, else it is silently `wrong`. Before the stroke the source, against its "
        f"writer's logits; after it the export, against stock transformers here. llama.cpp and others that tell "
        f"log-probabilities are compared in those. Weights are random; all five axes are cut.",
        "",
        "| source (family, rope, written by) | hidden / heads | blocks | " + " | ".join(names) + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    for cell, found in by_cell.items():
        source = cell.source
        width = "= head size" if cell.width == "equal" else "≠ head size"
        columns = [f"{shown(found[name].source)} / {shown(found[name].export)}" for name in names]
        written = "" if cell.write_as == "source" else f" as {cell.write_as}"
        origin = f"{source.family}{written}, {source.kind_of_rope}, {source.writer}"
        lines.append(f"| {' | '.join([origin, width, cell.period, *columns])} |")
    lines += ["", *(f"[{number}] {said}  " for said, number in notes.items())]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def facts_of(seconds: float) -> dict[str, Any]:
    """What the page says of the run."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=REPOSITORY
    ).stdout.strip()
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        **machine(),
        "command": f"python benchmarks/{' '.join(words)}",
        "commit": commit or "unknown",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "seconds": seconds,
    }


def summary(rows: list[Row]) -> dict[str, dict[str, int]]:
    """How often each client did what with exports, and with exports of sources that it reads."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        counts[row.environment.name][row.export.verdict] += 1
        if row.source.verdict == READS and row.export.verdict != READS:
            counts[row.environment.name]["worse than its source"] += 1
    return {name: dict(found) for name, found in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept between runs")
    parser.add_argument("--environments", type=Path, help="virtual environments named after clients")
    parser.add_argument("--families", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--clients", nargs="+", help="names of environments, and transformers; default: all")
    parser.add_argument("--results", type=Path, help="page to write, with every cell")
    parser.add_argument("--table", type=Path, help="JSON table to write, for the package")
    options = parser.parse_args()
    begun = time.perf_counter()
    work, cells = Work(options.work), all_cells(options.families)
    old = (options.environments or Path(".clients")) / "transformers-4.57" / "bin" / "python"
    asked = environments(options.environments, options.clients)
    writers = {"4.57": str(old), "5": sys.executable}
    write_sources(work, sorted({cell.source for cell in cells}), writers)
    for cell in cells:
        write_export(work, cell)
    rows = [row for environment in asked for row in rows_of(work, cells, environment)]
    facts = facts_of(time.perf_counter() - begun)
    if options.results:
        write_results(options.results, rows, facts)
    if options.table:
        write_table(options.table, rows)
    print(json.dumps({"benchmark": "clients", "cells": len(cells), "exports": summary(rows), **facts}))


if __name__ == "__main__":
    main()
