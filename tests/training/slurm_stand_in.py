"""Stand-ins for srun and scontrol on one node: ``python slurm_stand_in.py srun|scontrol ARGUMENTS``.

srun starts the tasks of a node with the variables that SLURM gives them, notes their processes in the file
``SLURM_NOTES``, and leaves with the highest exit code, as the real one does. With ``--kill-on-bad-exit=1``, a task that
leaves with another code than 0 ends the others. scontrol notes what it was asked.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def note(line: str) -> None:
    with Path(os.environ["SLURM_NOTES"]).open("a") as file:
        file.write(line + "\n")


def srun(arguments: list[str]) -> int:
    options = [word for word in arguments if word.startswith("--")][: first_word(arguments)]
    command = arguments[first_word(arguments) :]
    tasks = int(os.environ["SLURM_NTASKS_PER_NODE"])
    started = []
    for rank in range(tasks):
        own = {"SLURM_NTASKS": tasks, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0}
        environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
        started.append(subprocess.Popen(command, env=environment, start_new_session=True))
        note(f"task {started[-1].pid}")
    signal.signal(signal.SIGTERM, lambda *_: kill(started))
    told = False
    while any(task.poll() is None for task in started):
        if "--kill-on-bad-exit=1" in options and not told and any(task.poll() for task in started):
            told = True
            for task in started:
                task.terminate()
        time.sleep(0.05)
    return max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in started)


def kill(tasks: list[subprocess.Popen]) -> None:
    """End tasks that hang: what SLURM does when a job's time is up."""
    for task in tasks:
        task.kill()


def first_word(arguments: list[str]) -> int:
    """Where srun's own options end."""
    return next(place for place, word in enumerate(arguments) if not word.startswith("--"))


if __name__ == "__main__":
    if sys.argv[1] == "srun":
        sys.exit(srun(sys.argv[2:]))
    note(" ".join(sys.argv[1:]))
