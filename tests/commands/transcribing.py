"""What a person reads of commands: on a terminal of 80 columns, through pipes, and in a log file.

``python -m tests.commands.transcribing --rewrite`` writes the transcripts anew; the difference is part of the review.
"""

import argparse
import fcntl
import io
import logging
import os
import pty
import re
import struct
import sys
import tempfile
import termios
import threading
from contextlib import suppress
from pathlib import Path

COLUMNS, LINES = 80, 24
WAYS = ("terminal", "pipe", "log")
TRANSCRIPTS = Path(__file__).parent / "transcripts"
_TIMES = (
    # A bar's time, time left and speed, and behind them the numbers of the last step.
    (re.compile(r"\[\d\d:\d\d<(?:\d\d:\d\d|\?),[^],]*"), "[TIME<TIME, SPEED"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:s|min|h|days)\b"), "TIME"),
    (re.compile(r"tokens/s [\d,]*\d"), "tokens/s SPEED"),
    (re.compile(r"\d\.\d+e-\d+"), "SMALL"),
    (
        re.compile(r"(?<=\d)\.\d+\b"),
        lambda found: "." + "9" * (len(found[0]) - 1),
    ),  # of numbers, how long they are
    (re.compile(r"[0-9a-f]{40,}"), "HASH"),
    (re.compile(r"%\|[█▏▎▍▌▋▊▉ ]+\|"), "%|BAR|"),
)


def commands() -> list[list[str]]:
    """The path of a run, in a folder with the toy and the configs."""
    data, source = "--data=toy/data", "toy/gqa-tied"
    from tests.toy import TARGETS

    target = [f"--model.pruning.target.{axis}={size}" for axis, size in TARGETS["gqa-tied"].items()]
    fit = ["--config=configs/toy/prune.yaml", f"--model.source={source}", *target]
    fit += ["--data.directory=toy/data", "--trainer.default_root_dir=run"]
    sequences = "--sequences_per_domain=4"
    return [
        [
            "reference",
            "measure",
            f"--model={source}",
            data,
            sequences,
            "--output=references.yaml",
        ],
        ["rank", f"--source={source}", data, sequences, "--output=scores.safetensors"],
        ["fit", *fit],
        [
            "export",
            "--checkpoint=run/checkpoints/step=000012.ckpt",
            "--output=model",
        ],
        ["evaluate", "--model=model", data, sequences],
        ["evaluate", "--model=model", data, sequences, "--quiet"],
        ["report", "run"],
        ["report", "nowhere"],
    ]


def transcript(root: Path, place: Path, way: str) -> str:
    """What the commands write, one after the other, with times masked."""
    from tests.toy import CONFIGS

    place.mkdir()
    for name, there in (("toy", root), ("configs", CONFIGS)):
        (place / name).symlink_to(there)
    os.chdir(place)  # names of temporary folders differ in length
    parts = []
    _with_bars()
    for words in commands():
        _began_anew()
        said = _written(words, way)
        parts.append(f"$ shear-lit {' '.join(words)}\n{said}")
    return masked("\n".join(parts))


def masked(said: str) -> str:
    """The same without what differs between two runs of one command."""
    for pattern, name in _TIMES:
        said = pattern.sub(name, said)
    return "\n".join(line.rstrip() for line in said.splitlines()).strip() + "\n"


def screen(written: str) -> str:
    """What a terminal shows in the end of what was written to it, all lines of it."""
    lines, row, column = [[]], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.", written, flags=re.DOTALL):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
        elif part == "\x1b[A":
            row = max(0, row - 1)
        elif part == "\x1b[K":
            del lines[row][column:]
        elif not part.startswith("\x1b"):
            if column == COLUMNS:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            lines[row] += [" "] * (column - len(lines[row]))
            lines[row][column : column + 1] = part
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return "\n".join("".join(line).rstrip() for line in lines)


def _with_bars() -> None:
    """Undo what a command off a terminal has set up in the process that this one was forked off."""
    from huggingface_hub import constants
    from transformers.utils import logging as shown

    constants.HF_HUB_DISABLE_PROGRESS_BARS = None
    shown.enable_progress_bar()


def _began_anew() -> None:
    """Forget what an earlier command has set up in this process."""
    logging.root.handlers.clear()
    for name in ("COLUMNS", "LINES", "SHEAR_LIT_QUIET", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.pop(name, None)
    os.environ.update(TERM="xterm", NO_COLOR="1")


def _written(words: list[str], way: str) -> str:
    from shear_lit import cli

    ends = _Ends(way)
    with ends:
        try:
            cli.main(words)
        except SystemExit as left:
            ends.note = f"(exit code {left.code})\n" if left.code else ""
    return ends.text()


class _Ends:
    """Stands for what stdout and stderr of a process lead to."""

    def __init__(self, way: str) -> None:
        self.way, self.note = way, ""
        self._read, self._threads, self._open = {}, [], []

    def __enter__(self):
        self._before = sys.stdout, sys.stderr, os.dup(1), os.dup(2)
        if self.way == "terminal":
            ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
            ends = {1: theirs, 2: theirs}
            self._follow("terminal", ours)
        elif self.way == "pipe":
            pairs = {number: os.pipe() for number in (1, 2)}
            ends = {number: theirs for number, (_, theirs) in pairs.items()}
            for number, (ours, _) in pairs.items():
                self._follow(number, ours)
        else:
            self._file = tempfile.TemporaryFile()
            ends = {1: os.dup(self._file.fileno()), 2: os.dup(self._file.fileno())}
        for number, end in ends.items():
            os.dup2(end, number)
        for end in set(ends.values()):
            os.close(end)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        return self

    def __exit__(self, *_):
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr, *saved = self._before
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
            os.close(before)
        for thread in self._threads:
            thread.join()

    def _follow(self, name, end):
        kept = self._read[name] = io.BytesIO()

        def follow():
            with suppress(OSError):  # a terminal of which the other end is closed
                while part := os.read(end, 65536):
                    kept.write(part)
            os.close(end)

        thread = threading.Thread(target=follow)
        thread.start()
        self._threads.append(thread)

    def text(self) -> str:
        if self.way == "terminal":
            return screen(self._read["terminal"].getvalue().decode().replace("\r\n", "\n")) + "\n" + self.note
        if self.way == "pipe":
            out, err = (self._read[number].getvalue().decode() for number in (1, 2))
            return f"--- stderr\n{err}--- stdout\n{out}{self.note}"
        self._file.seek(0)
        return self._file.read().decode() + self.note


def main() -> None:
    from tests.toy import write_toy
    from tests.training import forks

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rewrite", action="store_true", required=True)
    parser.parse_args()
    TRANSCRIPTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "toy").mkdir()
        toy = write_toy(Path(folder) / "toy")
        for way in WAYS:
            place = Path(folder) / way
            (found,) = forks.run(transcript, Path(folder) / f"log-{way}", root=toy.root, place=place, way=way)
            (TRANSCRIPTS / f"{way}.txt").write_text(found)


if __name__ == "__main__":
    from tests.commands import transcribing

    transcribing.main()
