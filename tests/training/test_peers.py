"""When one process of a run fails alone, or hangs, all end soon, and say which one it was, and where."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.checkpoint.api import CheckpointException

from shear_lit.training import boundary, module, peers, shards
from tests.training.forks import run, start
from tests.training.runs import fit
from tests.training.stops import SPREAD

PATIENCE = "--trainer.strategy={class_path: shear_lit.training.strategies.FSDP2Strategy, init_args: {timeout: 0:00:04}}"
MORE_PATIENCE = PATIENCE.replace("04", "10")
"""For steps of a machine that has more to do."""


class InStep:
    """Something that one process does in the fourth step, while the other waits for it."""

    def __init__(self, rank, what):
        self.rank, self.what = rank, what

    def __call__(self):
        ShearingModule = module.ShearingModule
        train = ShearingModule.training_step
        peers._EVERY_SECONDS, peers._GRACE_SECONDS = 0.2, 0.5

        def step(self_, batch, index):
            if self_.trainer.global_step == 3 and self_.trainer.global_rank == self.rank:
                self.what()
            return train(self_, batch, index)

        ShearingModule.training_step = step


def full_disk():
    raise OSError(28, "No space left on device", "/data/x")


def hang():
    time.sleep(600)


def ended(toy, folder, sabotage, *flags):
    """What was said by each rank, and how long it took them all to end after the step was reached."""
    arguments = [*toy.arguments("prune", folder / "run"), *(flags or SPREAD)]
    forked = start(fit, folder / "log", processes=2, arguments=arguments, sabotage=sabotage)
    try:
        for worker in forked.workers:
            worker.join(60)
        codes = [worker.exitcode for worker in forked.workers]
    finally:
        forked.kill()
    return codes, [(folder / "log" / f"{rank}.log").read_text() for rank in (0, 1)]


def test_all_end_with_the_message_of_the_one_that_failed(toy, tmp_path):
    codes, said = ended(toy, tmp_path, InStep(1, full_disk))
    assert None not in codes and 0 not in codes
    assert "the disk is full" in said[1]
    assert "error: fit: rank 1 has failed: [Errno 28] No space left on device" in said[0]


def test_what_one_process_met_in_a_save_is_raised_as_what_it_is(tmp_path, monkeypatch):
    """Torch collects what processes meet in an error that is no Exception, with all of their tracebacks."""

    def save(*args, **options):
        raise CheckpointException("save", {1: (OSError(28, "No space left on device", "/data/x"), None)})

    monkeypatch.setattr(shards.sharded, "save", save)
    with pytest.raises(OSError, match="No space left on device: '/data/x'"):
        shards.save_shards({}, tmp_path / "step=000001", {}, writes_meta=False)


def test_hung_run_ends_in_time_and_says_where_each_process_is(toy, tmp_path):
    codes, said = ended(toy, tmp_path, InStep(1, hang), MORE_PATIENCE, "--trainer.devices=2")
    assert None not in codes and 0 not in codes
    assert "this process did not get on for 9 s: rank 0 at step 3, rank 1 at step 3." in said[0] + said[1]


CHILD = """
import time
from shear_lit.training.launcher import end_with_launcher
end_with_launcher()
print("watches", flush=True)
time.sleep(60)
"""
LAUNCHER = """
import os, subprocess, sys
from shear_lit.training.launcher import end_with_launcher
if sys.argv[2] == "fit":
    end_with_launcher()  # as the process does that Lightning starts the others from
environment = {**os.environ, "LOCAL_RANK": "1"}
if sys.argv[2] == "torchrun":
    environment["TORCHELASTIC_RUN_ID"] = "x"
pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment, **pipes)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def is_running(process):
    """Whether a process is there and does something: one that nobody has waited for is still listed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def slow_but_alone():
    """Both processes take longer than the time of a reduction for what needs none: they read, and one writes."""
    read, save = module.read_model, boundary.Boundary._save
    peers._EVERY_SECONDS = 0.1

    def slow_read(*args, **options):
        time.sleep(4.5)
        return read(*args, **options)

    def slow_save(self):
        time.sleep(4.5)
        save(self)

    module.read_model, boundary.Boundary._save = slow_read, slow_save


def test_process_that_reads_or_writes_for_long_is_not_taken_for_hung(toy, tmp_path):
    arguments = [*toy.arguments("prune", tmp_path / "run"), PATIENCE, "--trainer.devices=2"]
    arguments += ["--trainer.max_steps=4", "--checkpoint.every_steps=4"]
    run(fit, tmp_path / "log", processes=2, arguments=arguments, sabotage=slow_but_alone)


@pytest.mark.parametrize(("starter", "ends"), [("fit", True), ("torchrun", True), ("a shell", False)])
def test_process_of_a_launcher_that_was_killed_ends(starter, ends):
    """It would wait half an hour for the others; who logs out of a shell wants it to go on."""
    done = subprocess.run([sys.executable, "-c", LAUNCHER, CHILD, starter], capture_output=True, text=True)
    child, end = int(done.stdout), time.monotonic() + (20 if ends else 1.5)
    while is_running(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert is_running(child) != ends
    if not ends:
        os.kill(child, signal.SIGKILL)
