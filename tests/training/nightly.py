"""What may happen to a run, each at random moments, and whether anything is lost: signals, kills, disks that refuse.

    python -m tests.training.nightly signals kills disks --kills 100 --work runs/nightly

Each case is a line of ``--work``/log.jsonl; a run of the same code that was stopped goes on behind the last. Prints one
JSON line, and ends with 1 where a case is not as it should be.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from shear_lit.data.order.mixture_log import read_mixture_log
from shear_lit.training.checkpoints import read_checkpoint
from shear_lit.training.run_checkpoints import complete_checkpoints
from shear_lit.training.run_mark import MARK
from tests.toy import DOMAINS, Toy, write_toy
from tests.training.disks import fit_on_a_bad_disk
from tests.training.forks import ForkError, run, start
from tests.training.runs import fit, run_command_line
from tests.training.stops import MOMENTS, SIGNALS, SPREAD, same, stop_and_go_on, wrong_in

ALL_END_WITHIN_SECONDS = 60
BEFORE_ALL = ("mkdir .", 0)
"""What a run does first: it makes its directory."""
SHARDED = [*SPREAD]
DDP = ["--trainer.strategy=ddp", "--trainer.devices=2"]
FITS = {
    "prune": ("prune", [], 1),
    "prune, two": ("prune", SHARDED, 2),
    "pretrain": ("pretrain", [], 1),
    "pretrain, two": ("pretrain", DDP, 2),
}
"""Runs by name: stage, flags, processes."""


class Nightly:
    """The toy, and what is known of runs that nothing happened to."""

    def __init__(self, work: Path) -> None:
        self.work = work
        (work / "toy").mkdir(parents=True)
        self.toy: Toy = write_toy(work / "toy")
        self._whole: dict[str, tuple[Path, list[dict[str, Any]], float]] = {}
        self._commands: dict[str, tuple[Any, float]] = {}
        self._number = 0

    def place(self) -> Path:
        """A directory that no case had before."""
        self._number += 1
        folder = self.work / f"case-{self._number}"
        folder.mkdir()
        return folder

    def arguments(self, name: str, folder: Path) -> list[str]:
        stage, flags, _ = FITS[name]
        return [*self.toy.arguments(stage, folder / "run"), *flags, "--ckpt_path=auto"]

    def whole(self, name: str) -> tuple[Path, list[dict[str, Any]], float]:
        """A run that nothing happened to: its folder, what its processes saw, and its seconds."""
        if name not in self._whole:
            folder, began = self.place(), time.monotonic()
            seen = run(fit, folder / "log", processes=FITS[name][2], arguments=self.arguments(name, folder))
            self._whole[name] = folder, seen, time.monotonic() - began
        return self._whole[name]

    def words(self, name: str, folder: Path) -> list[str]:
        """The command line of a command that is no run."""
        checkpoint = self.whole("prune")[0] / "run" / "checkpoints" / "step=000012.ckpt"
        return {
            "prepare": [
                "prepare",
                *(f"--domains.{domain}={self.toy.root / f'{domain}.jsonl'}" for domain in DOMAINS),
                f"--tokenizer={self.toy.source()}",
                "--sequence_length=24",
                "--workers=2",
                f"--output={folder / 'out'}",
            ],
            "export": ["export", f"--checkpoint={checkpoint}", f"--output={folder / 'out'}"],
            "evaluate": [
                "evaluate",
                f"--model={self.toy.source()}",
                f"--data={self.toy.data}",
                f"--output={folder / 'out'}",
            ],
        }[name]

    def result(self, name: str) -> tuple[Any, float]:
        """What a command leaves that nothing happened to, and its seconds."""
        if name not in self._commands:
            folder, began = self.place(), time.monotonic()
            run(run_command_line, folder / "log", arguments=self.words(name, folder))
            self._commands[name] = content_of(folder / "out"), time.monotonic() - began
        return self._commands[name]


def content_of(path: Path) -> dict[str, str]:
    """The files below a path by name, as hashes; hidden ones are of no interest to anybody else."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    named = {str(file.relative_to(path)) if file != path else "": file for file in files}
    shown = {name: file for name, file in named.items() if not name.startswith(".")}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in shown.items()}


def half_files(folder: Path) -> list[str]:
    """What in a run's directory has the name of something whole and is not."""
    found = []
    for path in complete_checkpoints(folder):
        try:
            read_checkpoint(path)
        except Exception as error:
            found.append(f"{path.name}: {error}")
    for path in (folder / "gates").glob("*.safetensors"):
        try:
            load_file(path)
        except Exception as error:
            found.append(f"{path.name}: {error}")
    if (folder / "mixture.json").exists():
        try:
            read_mixture_log(folder)
        except Exception as error:
            found.append(f"mixture.json: {error}")
    return found


def differences(whole: list[dict[str, Any]], again: list[dict[str, Any]]) -> list[str]:
    """In what the end of a run that went on is not that of one that nothing happened to."""
    parts = ("parameters", "moments", "rates", "data")
    return [
        f"{part} of rank {rank}"
        for rank, (one, other) in enumerate(zip(whole, again, strict=True))
        for part in parts
        if not same(one[part], other[part])
    ]


def killed_run(nightly: Nightly, name: str, numbers: random.Random) -> list[str]:
    """Kill a run once or twice, all of its processes or one, and give the same command again."""
    _, whole, seconds = nightly.whole(name)
    folder, processes = nightly.place(), FITS[name][2]
    arguments = nightly.arguments(name, folder)
    wrong = []
    for attempt in range(numbers.choice([1, 1, 2])):
        begun = starts_in(folder / "run")
        forked = start(fit, folder / f"killed-{attempt}", processes=processes, arguments=arguments)
        time.sleep(numbers.uniform(0.0, seconds))
        if processes == 2 and numbers.randrange(2):
            one = numbers.choice(forked.workers)
            one.kill()
            if starts_in(folder / "run") == begun:  # before they have met, a launcher ends them
                forked.kill()
            end = time.monotonic() + ALL_END_WITHIN_SECONDS
            while any(worker.exitcode is None for worker in forked.workers) and time.monotonic() < end:
                time.sleep(0.05)
            wrong += [f"rank {rank} goes on" for rank, w in enumerate(forked.workers) if w.exitcode is None]
        forked.kill()
        wrong += half_files(folder / "run")
    try:
        again = run(fit, folder / "again", processes=processes, arguments=arguments)
    except ForkError as error:
        return [*wrong, f"it does not go on: {str(error)[-600:]}"]
    if any(record["batches"] for record in again):  # it had not come to its end before
        wrong += differences(whole, again)
    last = complete_checkpoints(folder / "run")[-1]
    return wrong + ([] if last.name.startswith("step=000012") else [f"it ends with {last.name}"])


def starts_in(run: Path) -> int:
    """How many starts of a run have got as far as its first step; one that failed before keeps its own aside."""
    return len([*run.glob("provenance*.json"), *run.glob("failed-start*/provenance*.json")])


def killed_command(nightly: Nightly, name: str, numbers: random.Random) -> list[str]:
    """Kill a command, look at what it left, and give it again."""
    expected, seconds = nightly.result(name)
    folder = nightly.place()
    arguments = nightly.words(name, folder)
    forked = start(run_command_line, folder / "killed", arguments=arguments)
    time.sleep(numbers.uniform(0.0, seconds))
    forked.kill()
    left = folder / "out"
    if name != "prepare" and left.exists() and content_of(left) not in (expected, {}):
        return ["something half is at its place"]
    if name == "export" and content_of(left) == expected:
        return []  # it was done
    try:
        run(run_command_line, folder / "again", arguments=arguments)
    except ForkError as error:
        return [f"it cannot be given again: {str(error)[-600:]}"]
    return [] if content_of(left) == expected else ["its result is another one"]


def signals(nightly: Nightly) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Each signal at each moment, alone and with a second process that alone is told."""
    for processes, number, moment in product((1, 2), SIGNALS, MOMENTS):
        name = "prune" if processes == 1 else "prune, two"

        def case(processes: int = processes, number: int = number, moment: str = moment, name: str = name):
            folder = nightly.place()
            arguments = nightly.toy.arguments("prune", folder / "run")
            told = stop_and_go_on(arguments, folder, number, moment, processes=processes)
            return wrong_in(nightly.whole(name)[1], *told, number, folder)

        yield f"signal {number.name}, {moment}, {processes}", case


def kills(nightly: Nightly, count: int, seed: int) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Kills of every command in turn."""
    names = ["prepare", *FITS, "export", "evaluate"]
    for number in range(count):
        name = names[number % len(names)]

        def case(number: int = number, name: str = name) -> list[str]:
            numbers = random.Random(f"{seed}/{number}")
            kill = killed_run if name in FITS else killed_command
            return kill(nightly, name, numbers)

        yield f"kill {number}, {name}", case


def disks(nightly: Nightly) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Each kind of file operation of each rank fails, with a full disk or a missing permission."""
    for name in ("prune", "prune, two", "pretrain, two"):
        for rank in range(FITS[name][2]):
            for at in operations_of(nightly, name, rank):

                def case(name: str = name, rank: int = rank, at: tuple[str, int] = at) -> list[str]:
                    return refused_by_the_disk(nightly, name, rank, at)

                yield f"disk, {name}, rank {rank}, {at[0]}, number {at[1]}", case


def operations_of(nightly: Nightly, name: str, rank: int) -> list[tuple[str, int]]:
    """The file operations of one rank in the directory of a run; of those of one name the first and the last."""
    folder = nightly.place()
    seen = run(
        fit_on_a_bad_disk,
        folder / "log",
        processes=FITS[name][2],
        arguments=nightly.arguments(name, folder),
        directory=str(folder / "run"),
        rank=rank,
        at=None,
    )
    operations: list[str] = seen[rank]["operations"]
    found = {(operation, 0): None for operation in operations}
    # Events are written by a thread, how often differs.
    more = {(operation, operations.count(operation) - 1): None for operation in found_twice(operations)}
    return [*found, *more]


def found_twice(operations: list[str]) -> list[str]:
    """Those that come more than once as often each time."""
    return [each for each in dict.fromkeys(operations) if operations.count(each) > 1 and "*" not in each]


def refused_by_the_disk(nightly: Nightly, name: str, rank: int, at: tuple[str, int]) -> list[str]:
    folder, processes = nightly.place(), FITS[name][2]
    arguments = nightly.arguments(name, folder)
    options: dict[str, Any] = dict(arguments=arguments, directory=str(folder / "run"), rank=rank, at=at)
    forked = start(fit_on_a_bad_disk, folder / "bad", processes=processes, **options)
    end = time.monotonic() + ALL_END_WITHIN_SECONDS
    while any(worker.exitcode is None for worker in forked.workers) and time.monotonic() < end:
        time.sleep(0.05)
    wrong = [f"rank {number} goes on" for number, w in enumerate(forked.workers) if w.exitcode is None]
    if MARK in at[0] or at == BEFORE_ALL:  # before the processes have met, a launcher ends them
        wrong = []
    forked.kill()
    said = (folder / "bad" / f"{rank}.log").read_text()
    done = (folder / "bad" / f"{rank}.pt").exists()  # what only adds to a log may fail without an end
    if not done and sum(line.startswith("error: ") for line in said.splitlines()) != 1:
        wrong.append(f"not one line: {said}")
    if "Nobody foresaw" in said:
        wrong.append(f"nobody foresaw it: {said[-800:]}")
    wrong += half_files(folder / "run")
    try:
        again = run(fit, folder / "again", processes=processes, arguments=arguments)
    except ForkError as error:
        return [*wrong, f"it does not go on: {str(error)[-600:]}"]
    if any(record["batches"] for record in again):
        wrong += differences(nightly.whole(name)[1], again)
    return wrong


def code_of_this() -> str:
    """What tells one state of the code from another."""
    root = Path(__file__).parents[2]
    files = sorted([*(root / "src").rglob("*.py"), *(root / "tests" / "training").glob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["signals", "kills", "disks"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--work", type=Path, default=Path("runs/nightly"))
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    log, code = options.work / "log.jsonl", code_of_this()
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {line["case"]: line["wrong"] for line in lines if line["code"] == code}
    shutil.rmtree(options.work / "cases", ignore_errors=True)
    nightly = Nightly(options.work / "cases")
    parts = {
        "signals": lambda: signals(nightly),
        "kills": lambda: kills(nightly, options.kills, options.seed),
        "disks": lambda: disks(nightly),
    }
    found: dict[str, list[str]] = {}
    began = time.monotonic()
    for part in options.parts:
        for name, case in parts[part]():
            if name not in known:
                known[name] = case()
                with log.open("a") as file:
                    file.write(json.dumps({"code": code, "case": name, "wrong": known[name]}) + "\n")
                if known[name]:
                    print(f"{name}: {known[name]}", file=sys.stderr, flush=True)
                for folder in nightly.work.glob("case-*"):
                    if folder not in [whole[0] for whole in nightly._whole.values()]:
                        shutil.rmtree(folder)
            found[name] = known[name]
    bad = {name: wrong for name, wrong in found.items() if wrong}
    counts = {part: sum(name.startswith(part[:-1]) for name in found) for part in options.parts}
    print(
        json.dumps({"cases": counts, "wrong": bad, "seconds": round(time.monotonic() - began), "code": code})
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
