"""Random edits of every kind of file that commands read, each on the cheapest command that reads it.

    python -m tests.bad_inputs.fuzz --edits 2000 --seed 17 --work runs/doors

First come the hostile files of every kind on every command (``--edits 0``: these alone). Each case and each edit is a
line of a log in ``--work``, and a run of the same code that was stopped goes on behind the last. Prints one
JSON line, and ends with 1 where a bar fails: no traceback, no hang, nothing else than one line that refuses, no more
than 1 GiB of memory, and no changed byte taken over silently in a file that is written with a checksum.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.bad_inputs import hostile
from tests.bad_inputs.edits import edited_bytes, edited_value
from tests.bad_inputs.ending import Ending, endings
from tests.bad_inputs.good import command_line, copied, own_growth, write_good, write_sentencepiece
from tests.bad_inputs.hostile import FILES, MOST_BYTES

TOGETHER = 40
"""Edits whose directories are made at a time."""
_SEALED = (
    "checkpoint",
    "meta.pt",
    "index of shards",
    "shard",
    "scores",
    "gates",
    "chunk",
    "chunk of the validation",
    "documents of a chunk",
    "inputs of the ledger",
    "tails of the ledger",
    "hashes of the ledger",
)
"""What is written with a checksum."""
_BY_ALL = ("checkpoint", "meta.pt", "index of shards", "shard", "chunk")
"""What several commands read in parts of their own."""
_WEIGHTS = ("weights", "scores", "gates", "gates of an earlier version")
_LEFT_OUT = ("config",)
_NUMBERS = (".safetensors", ".shear")


def edited(name: str, content: bytes, numbers: random.Random) -> bytes:
    """Another content of a file of FILES: other values where it has some, or other bytes."""
    suffix = Path(FILES[name].path).suffix
    if numbers.randrange(3):
        if suffix == ".json":
            return json.dumps(_values(json.loads(content), numbers)).encode()
        if suffix == ".yaml":
            return yaml.safe_dump(_values(yaml.safe_load(content), numbers)).encode("utf-8", "replace")
        if suffix == ".jsonl":
            lines = content.splitlines()
            at = numbers.randrange(len(lines))
            lines[at] = json.dumps(_values(json.loads(lines[at]), numbers)).encode()
            return b"\n".join(lines)
        if name in _WEIGHTS and numbers.randrange(2):
            size = 8 + int.from_bytes(content[:8], "little")
            header = json.dumps(_values(json.loads(content[8:size]), numbers)).encode()
            return len(header).to_bytes(8, "little") + header + content[size:]
    return _bytes(content, numbers)


def _values(content: Any, numbers: random.Random) -> Any:
    if numbers.randrange(6) or not isinstance(content, dict):
        return edited_value(content, numbers)
    first, second = (numbers.choice(list(content)) for _ in range(2))
    content[first], content[second] = content[second], content[first]
    return content


def _bytes(content: bytes, numbers: random.Random) -> bytes:
    if not content or numbers.randrange(4):
        return edited_bytes(content, numbers)
    at, size = numbers.randrange(len(content)), numbers.randrange(1, 200)
    if numbers.randrange(2):  # zeros
        return content[:at] + bytes(len(content[at : at + size])) + content[at + size :]
    to = numbers.randrange(len(content))
    first, second = sorted((at, to))
    size = min(size, second - first, len(content) - second)  # two places change their contents
    return b"".join(
        (
            content[:first],
            content[second : second + size],
            content[first + size : second],
            content[first : first + size],
            content[second + size :],
        )
    )


def edit_of(number: int, seed: int) -> tuple[str, str, random.Random]:
    """Which file and which command an edit is of, and the numbers to make it by."""
    names = [name for name in FILES if name not in _LEFT_OUT]
    name = names[number % len(names)]
    numbers = random.Random(f"{seed} {number}")
    commands = FILES[name].commands
    return name, numbers.choice(commands) if name in _BY_ALL else commands[0], numbers


def result_of(place: Path, ending: Ending) -> str:
    """A hash of what a command computed: its weights, gates, losses and mixture; or, without files, what it printed."""
    files = {name: place / name for name in sorted(ending.left) if (place / name).is_file()}
    parts = {name: part for name, path in files.items() if (part := _computed(path)) is not None}
    if not files:
        said = ending.said.replace(str(place), "").splitlines()
        parts = {line: b"" for line in said if "it/s" not in line and "warn" not in line.lower()}
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _computed(path: Path) -> bytes | None:
    """The numbers in a file that a command wrote, without paths and times; None where it has none."""
    content = path.read_bytes()
    if path.suffix in _NUMBERS or path.name == "out":
        return content[8 + int.from_bytes(content[:8], "little") :]
    if path.suffix == ".ckpt":
        state = torch.load(path, weights_only=True)["state_dict"]
        return b"".join(tensor.numpy().tobytes() for tensor in state.values())
    return content if path.name in ("mixture.json", "out.yaml") else None


def run_edits(
    numbers: list[int], seed: int, good: Path, work: Path, own: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """What became of each edit."""
    for start in range(0, len(numbers), TOGETHER):
        folder, commands, edits = work / "places", [], []
        shutil.rmtree(folder, ignore_errors=True)
        for number in numbers[start : start + TOGETHER]:
            name, command, random_numbers = edit_of(number, seed)
            place = copied(good, folder / str(number), command)
            path = place / FILES[name].path
            before = path.read_bytes()
            path.write_bytes(edited(name, before, random_numbers))
            changed = path.read_bytes() != before
            edits.append((number, name, command, place, changed))
            commands.append((command_line(command, place), place))
        for (number, name, command, place, changed), ending in zip(
            edits, endings(commands, folder / "log"), strict=True
        ):
            sealed = name in _SEALED and changed and ending.code == 0
            yield {
                "number": number,
                "file": name,
                "command": command,
                "code": ending.code,
                "seconds": round(ending.seconds, 2),
                "memory": ending.memory,
                "line": "".join(ending.lines)[:600],
                "traceback": "Traceback" in ending.said or "Nobody foresaw" in ending.said,
                "hang": ending.code == -1,
                "unclear": ending.code not in (0, -1)
                and not (
                    ending.code in (1, 2)
                    and len(ending.lines) == 1
                    and ending.said.rstrip().endswith(ending.lines[0])
                ),
                "memory_above": ending.memory > MOST_BYTES,
                "silent": sealed and result_of(place, ending) != own[command],
            }


BARS = ("traceback", "hang", "unclear", "memory_above", "silent")


def run_cases(log: Path, good: Path, work: Path) -> Iterator[dict[str, Any]]:
    """What became of each hostile file on each command that reads it, but for those that the log has."""
    done = {line["name"] for line in lines_of(log)}
    cases = [case for case in hostile.CASES if case.name not in done]
    names = sorted({case.command for case in cases})
    own = own_growth(names, good, work / "own")
    for (
        name,
        ending,
    ) in own.items():  # a demo fetches its model, and what is compared with another model differs
        assert ending.code == 0 or name.startswith(("demo", "verify against")), (name, ending.said)
    shutil.rmtree(work / "own")
    for case, place, ending in hostile.run(cases, good, work / "cases"):
        found = hostile.faults(case, ending, place, own[case.command].memory)
        yield {
            "name": case.name,
            "faults": found,
            "code": ending.code,
            "memory": ending.memory,
            "said": ending.said[-900:],
        }


def lines_of(log: Path) -> list[dict[str, Any]]:
    """What a log says, but for a last line that was not finished."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def kept(log: Path, found: Iterator[dict[str, Any]]) -> None:
    """Write each line when it is known."""
    whole = lines_of(log)
    log.write_text("".join(json.dumps(line) + "\n" for line in whole))
    with log.open("a") as file:
        for line in found:
            file.write(json.dumps(line) + "\n")
            file.flush()


def code() -> str:
    """A short hash of the code that is tried, so that no log speaks for another version of it."""
    here = Path(__file__).parent
    files = sorted([*(here.parents[1] / "src").rglob("*.py"), *here.glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--no-cases", action="store_true", help="random edits alone")
    options = parser.parse_args()
    work, start = options.work.resolve(), time.monotonic()
    for name in ("made", "good-made", "good", "work", "places"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    write_good(work / "good", work / "made")
    write_sentencepiece(work / "good")
    cases, edits = work / f"cases-{code()}.jsonl", work / f"edits-{options.seed}-{code()}.jsonl"
    if not options.no_cases:
        kept(cases, run_cases(cases, work / "good", work / "work"))
    done = {line["number"] for line in lines_of(edits)}
    numbers = [number for number in range(options.edits) if number not in done]
    if numbers:
        names = sorted({command for name in _SEALED for command in FILES[name].commands})
        own = {
            name: result_of(work / "work" / f"own-{number}", ending)
            for number, (name, ending) in enumerate(own_growth(names, work / "good", work / "work").items())
        }
        kept(edits, run_edits(numbers, options.seed, work / "good", work, own))
    found, tried = lines_of(edits)[: options.edits], lines_of(cases)
    totals = {
        "kinds": len(hostile.HOSTILE),
        "cases": len(tried),
        "cases_with_faults": [line["name"] for line in tried if line["faults"]],
        "edits": len(found),
        "files": len({line["file"] for line in found}),
        "refused": sum(line["code"] in (1, 2) for line in found),
        "accepted": sum(line["code"] == 0 for line in found),
        **{bar: sum(line[bar] for line in found) for bar in BARS},
        "most_memory": max((line["memory"] for line in [*found, *tried]), default=0),
        "slowest_seconds": max((line["seconds"] for line in found), default=0),
        "faults_by_file": dict(Counter(line["file"] for line in found if any(line[bar] for bar in BARS))),
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(totals))
    return int(bool(totals["cases_with_faults"]) or any(totals[bar] for bar in BARS))


if __name__ == "__main__":
    sys.exit(main())
