"""Ask a client, in its own interpreter, what it computes from a directory: which there are, and how they are run."""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from shear_lit.mistakes import Mistake

ClientName = Literal["transformers", "vllm", "llama.cpp", "ctranslate2", "optimum"]
"""The clients that can be asked."""
CLIENTS: dict[ClientName, str] = {name: f"in_{re.sub(r'[.]', '_', name)}.py" for name in get_args(ClientName)}
"""The file of each, beside this one."""

SECONDS_TO_START = 300.0
"""What importing a client may take; on a cold disk vLLM takes a minute."""
SECONDS_PER_JOB = 600.0

_HERE = Path(__file__).parent
_PROGRAM = _HERE / "answering.py"
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONSAFEPATH": "1",
}


class ClientError(Mistake):
    """A client that cannot be asked."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a client is to compute from one directory."""

    directory: str
    """The model."""
    tokens: Sequence[Sequence[int]]
    """Rows of ids whose logits are wanted."""
    logits: str
    """The .npy file that they are written to."""
    greedy_from: Sequence[int] | None = None
    """Ids that are continued greedily."""
    new_tokens: int = 32
    """How far."""
    text: str | None = None
    """Text whose ids are wanted; without one, the directory needs no tokenizer."""
    ends: Sequence[int] = ()
    """Ids that end a turn of a conversation: whether generation stops behind each is wanted."""

    def to_line(self) -> str:
        """The job as the client reads it."""
        return json.dumps(vars(self)) + "\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client computed from one directory, or why it did not."""

    directory: str
    """The model."""
    version: str | None = None
    """The client's."""
    error: str | None = None
    """Why there is nothing else."""
    kind: Literal["logits", "log_probabilities"] = "logits"
    """What is in the file."""
    logits: str = ""
    """The .npy file, positions by vocabulary."""
    positions: Sequence[int] | None = None
    """Which positions they are, of all rows' one after another; None: all."""
    greedy: Sequence[int] | None = None
    """The ids that it wrote."""
    ids: Sequence[int] | None = None
    """The ids of the text."""
    stops: Sequence[int] | None = None
    """Those of the ids that end a turn behind which it stops; None: it was not asked, or does not tell."""
    notes: Sequence[str] = ()
    """What it warned of."""
    seconds: float = 0.0
    """How long it took."""


def installed(python: str) -> dict[ClientName, tuple[str, str | None]]:
    """The clients that an interpreter has: the version of each, and what it lacks besides, if anything.

    Raises:
        ClientError: there is no such interpreter.
    """
    files = {str(_HERE / file): name for name, file in CLIENTS.items()}
    try:
        found = subprocess.run(
            [python, str(_PROGRAM), "--installed", *files],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS_TO_START,
        )
        told: dict[str, dict[str, Any]] = json.loads(found.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ClientError(
            f"python={python!r} is no Python interpreter that runs ({type(error).__name__}): the one of the "
            f"environment in which the client is installed is expected. Correct the path."
        ) from error
    return {
        files[file]: (entry["version"], entry["lacks"]) for file, entry in told.items() if entry["version"]
    }


def check_installed(client: ClientName, python: str) -> str:
    """The version of a client that an interpreter has.

    Raises:
        ClientError: it has none, or the client lacks something.
    """
    there = installed(python)
    if client not in there:
        others = f" (it has {', '.join(there)})" if there else ""
        raise ClientError(
            f"client={client} is not installed in python={python!r}{others}. Install it there, or name with --python "
            f"the interpreter of the environment that has it."
        )
    version, lacks = there[client]
    if lacks:
        raise ClientError(f"client={client} in python={python!r} lacks {lacks}.")
    return version


def ask(
    client: ClientName | Path,
    python: str,
    jobs: Sequence[Job],
    *,
    answers: Path | None = None,
    seconds_per_job: float = SECONDS_PER_JOB,
) -> list[Answer]:
    """The answers of one client to ``jobs``, in their order; the client is started once.

    ``answers``: a file that they are appended to one by one as well, for who wants to go on after an interruption.
    Every job has an answer: that of a client which died, hung or wrote nonsense says so.
    """
    script = _HERE / CLIENTS[client] if isinstance(client, str) else client
    with tempfile.TemporaryDirectory(prefix="shear-lit-client-") as scratch:
        if answers is None:
            answers = Path(scratch) / "answers.jsonl"
        begun = len(read_answers(answers))
        todo = Path(scratch) / "jobs.jsonl"
        todo.write_text("".join(job.to_line() for job in jobs), encoding="utf-8")
        end = _run(
            [python, str(_PROGRAM), str(script), str(todo), str(answers), f"--seconds={seconds_per_job}"],
            Path(scratch) / "log",
            SECONDS_TO_START + (seconds_per_job + 10) * len(jobs),
        )
        found = read_answers(answers)[begun:][: len(jobs)]
    missing = [Answer(directory=job.directory, error=end) for job in jobs[len(found) :]]
    return [*found, *missing]


def _run(command: list[str], log: Path, seconds: float) -> str:
    """Run a client's program and all that it starts; how it ended, in a line."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"the client's program ended ({'too late' if code is None else f'exit code {code}'}): {last[:300]}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a program and its children, also where this one was interrupted."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> Mapping[str, str]:
    """This process's, without what it says of this interpreter's packages."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, **_OFFLINE}


def read_answers(file: Path) -> list[Answer]:
    """The answers in a file; none, where there is no file."""
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:  # half a line: the program was killed while it wrote
            continue
        known = {name: value for name, value in entry.items() if name in Answer.__dataclass_fields__}
        found.append(Answer(**known))
    return found
