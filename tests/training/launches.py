"""The scripts of launch/ run for real, on the toy, in two CPU processes: ``python -m tests.training.launches``.

torchrun is the installed one. srun and scontrol are stand-ins (``slurm_stand_in``): tasks of one node with SLURM's
variables, and a note of what was asked. Each check prints one line; the exit code is 1 if one failed. It takes minutes:
``make nightly`` runs it, the suite does not. Names of checks choose some of them; what follows ``--`` goes to ``fit``.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.toy import CONFIGS, TARGETS, Toy, write_toy

ROOT = Path(__file__).parents[2]
STAGES = ("prune", "pretrain")
STRATEGIES = ("fsdp2", "ddp")
JOB = 1234567
STAND_IN = ROOT / "tests" / "training" / "slurm_stand_in.py"
LONGEST = 120
"""Seconds that one start may take."""
GRACE = 30
"""Seconds that torchrun waits after a signal."""
TORCHRUN_STOPPED = 1
"""torchrun's exit code after any signal that it has handed on."""


class Launch:
    """One start of one of the scripts."""

    def __init__(self, work: Path, toy: Toy, more: list[str]) -> None:
        self.work, self.toy, self.more = work, toy, more
        self.bin = work / "bin"
        self._write_stand_ins()

    def _write_stand_ins(self) -> None:
        self.bin.mkdir()
        for name in ("srun", "scontrol"):
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" {name} "$@"\n')
            script.chmod(0o755)
        command = self.bin / "shear-lit"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m shear_lit "$@"\n')
        command.chmod(0o755)
        # Python runs this at the start of every process: one of them comes late.
        (self.bin / "sitecustomize.py").write_text(
            "import os, time\n"
            "rank = os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID'))\n"
            "if rank is not None and rank == os.environ.get('LATE_RANK'):\n"
            "    time.sleep(8)\n"
        )

    def start(
        self, launcher: str, stage: str, run: Path, *flags: str, late: int | None = None
    ) -> subprocess.Popen:
        """Start a script on a run's directory; its output is appended to a log beside it."""
        script = ROOT / "launch" / {"torchrun": "torchrun.sh", "slurm": "slurm.sbatch"}[launcher]
        arguments = [
            str(CONFIGS / "toy" / f"{stage}.yaml"),
            f"--model.source={self.toy.source()}",
            f"--data.directory={self.toy.data}",
            f"--trainer.default_root_dir={run}",
        ]
        if stage == "prune":
            arguments += [
                f"--model.pruning.target.{axis}={size}" for axis, size in TARGETS["gqa-tied"].items()
            ]
        with run.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                ["bash", str(script), *arguments, *flags, *self.more],
                env=self._environment(run, late)
                | ({"MASTER_PORT": "29611"} if launcher == "torchrun" else {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.work,
            )

    def _environment(self, run: Path, late: int | None) -> dict[str, str]:
        path = f"{self.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {
            "PATH": path,
            "PYTHONPATH": f"{self.bin}:{ROOT / 'src'}:{ROOT}",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "GLOO_SOCKET_IFNAME": "lo",
            "GPUS": "2",
            "SHUTDOWN_SECONDS": str(GRACE),
            "SLURM_NOTES": str(run.with_suffix(".notes")),
            "SLURM_JOB_ID": str(JOB),
            "SLURM_JOB_NAME": "shear-lit-toy",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NNODES": "1",
            "SLURM_NODELIST": "localhost",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }
        return {**os.environ, **own, **({} if late is None else {"LATE_RANK": str(late)})}

    def finish(self, launcher: str, stage: str, run: Path, *flags: str, late: int | None = None) -> int:
        """The exit code of a start that is left alone."""
        return wait(self.start(launcher, stage, run, *flags, late=late))


def wait(process: subprocess.Popen) -> int:
    """The exit code of a process, or -1 of one that takes too long: it is told, and ends its tasks."""
    try:
        return process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(2 * GRACE)
        return -1


def steps(run: Path) -> list[int]:
    """The steps of the complete checkpoints."""
    found = [path for path in (run / "checkpoints").glob("step=*") if "partial" not in path.name]
    return sorted(int(path.stem.removeprefix("step=").partition("-")[0]) for path in found)


def begun_at(run: Path) -> list[int]:
    """The step at which each start of a run began."""
    found = sorted(run.glob("provenance*.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text())["from_step"] for path in found]


def finishes(launch: Launch, launcher: str, stage: str, strategy: str, late: int | None = None) -> str:
    """A run that nobody stops ends with 0 and with all its checkpoints."""
    run = launch.work / f"{launcher}-{stage}-{strategy}-{late}"
    code = launch.finish(launcher, stage, run, f"--trainer.strategy={strategy}", late=late)
    return "" if (code, steps(run)) == (0, [2, 4, 6, 8, 10, 12]) else f"exit {code}, checkpoints {steps(run)}"


def goes_on(launch: Launch, launcher: str, stage: str, name: str) -> str:
    """A run that a signal stops has saved, and the same command goes on with it to its end."""
    number = signal.Signals[f"SIG{name}"]
    run = launch.work / f"{launcher}-{stage}-{name}"
    first = launch.start(launcher, stage, run, "--trainer.max_steps=60")
    end = time.monotonic() + LONGEST
    while (not steps(run) or steps(run)[-1] < 4) and first.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    for process in tasks_of(run) if launcher == "slurm" else [first.pid]:
        with suppress(ProcessLookupError):
            os.kill(process, number)
    code = wait(first)
    stopped_at = steps(run)[-1] if steps(run) else 0
    wanted = TORCHRUN_STOPPED if launcher == "torchrun" else 128 + number
    again = launch.finish(launcher, stage, run, "--trainer.max_steps=60")
    asked = requeues(run)
    expected = [str(JOB)] if name == "USR1" else []  # of torchrun, too: it is started in a job here
    found = (code, again, steps(run)[-1:], begun_at(run), asked)
    return (
        ""
        if found == (wanted, 0, [60], [0, stopped_at], expected) and stopped_at < 60
        else (
            f"exit codes {found[:2]}, last checkpoints {stopped_at} and {found[2]}, begun at {found[3]}, "
            f"requeued {asked}"
        )
    )


def notes_of(run: Path) -> list[list[str]]:
    notes = run.with_suffix(".notes")
    return [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []


def tasks_of(run: Path) -> list[int]:
    """The processes that the stand-in of srun has started."""
    return [int(words[1]) for words in notes_of(run) if words[0] == "task"]


def requeues(run: Path) -> list[str]:
    """The jobs that ``scontrol requeue`` was asked to queue again."""
    return [words[2] for words in notes_of(run) if words[:2] == ["scontrol", "requeue"]]


def checks(launch: Launch) -> dict[str, Callable[[], str]]:
    """Every check by its name."""
    found: dict[str, Callable[[], str]] = {}
    for launcher in ("torchrun", "slurm"):
        for stage in STAGES:
            for strategy in STRATEGIES:
                name = f"finish-{launcher}-{stage}-{strategy}"
                found[name] = lambda args=(launcher, stage, strategy): finishes(launch, *args)
        for late in (0, 1):
            name = f"late-{launcher}-{late}"
            found[name] = lambda args=(launcher, "prune", "fsdp2", late): finishes(launch, *args)
        for sent in ("TERM", "INT", "USR1"):
            name = f"stop-{launcher}-{sent}"
            found[name] = lambda args=(launcher, "prune", sent): goes_on(launch, *args)
    return found


def main(words: list[str]) -> int:
    """Run the checks whose names begin with one of ``words``, or all."""
    place = words.index("--") if "--" in words else len(words)
    chosen, more = words[:place], words[place + 1 :]
    work = Path(tempfile.mkdtemp(prefix="launches-"))
    (work / "toy").mkdir()
    launch = Launch(work, write_toy(work / "toy"), more)
    failed = 0
    for name, check in checks(launch).items():
        if chosen and not name.startswith(tuple(chosen)):
            continue
        start = time.monotonic()
        wrong = check()
        failed += bool(wrong)
        print(
            f"{'FAILED' if wrong else 'ok':<7}{name:<32}{time.monotonic() - start:6.1f} s  {wrong}",
            flush=True,
        )
    print(f"{failed} failed; logs in {work}" if failed else "all passed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
