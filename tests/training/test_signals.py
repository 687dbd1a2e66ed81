"""A run that is told to stop saves what it has, says so with its exit code, and goes on by the same command line."""

import os
import signal
import subprocess
import sys

import lightning as L
import pytest
import torch.distributed as dist
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from shear_lit.training import boundary, stopping
from shear_lit.training.checkpoints import read_facts
from shear_lit.training.lightning_loops import leave_signals_alone
from shear_lit.training.run_checkpoints import latest_checkpoint
from shear_lit.training.signals import StopSignals
from tests.training.forks import run
from tests.training.runs import fit
from tests.training.stops import MOMENTS, SIGNALS, SPREAD, _Told, stop_and_go_on, wrong_in

# The whole matrix is in ``make runs``: here each signal once, and two processes.
CASES = [
    (1, signal.SIGTERM, "before the first step"),
    (1, signal.SIGUSR1, "validation"),
    (2, signal.SIGINT, "training"),
]


@pytest.mark.parametrize(("processes", "number", "moment"), CASES)
def test_stopped_run_goes_on_as_if_it_had_not_been(toy, tmp_path, whole, processes, number, moment):
    assert moment in MOMENTS
    arguments = toy.arguments("prune", tmp_path / "run")
    stopped, again = stop_and_go_on(arguments, tmp_path, number, moment, processes=processes)
    uninterrupted = whole("prune", *(SPREAD if processes == 2 else ()), processes=processes)[1]
    assert wrong_in(uninterrupted, stopped, again, number, tmp_path) == []


def test_last_validation_is_not_left(toy, tmp_path):
    """A run that has taken all its steps is not begun again: its checkpoint has the losses of its end."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), "--trainer.max_steps=4"]
    (stopped,), (again,) = stop_and_go_on(arguments, tmp_path, signal.SIGTERM, "validation")
    facts = read_facts(latest_checkpoint(tmp_path / "run"))
    assert list(facts.losses.values()) == stopped["domain_losses"][4].tolist()
    assert (stopped["code"], again["code"], again["batches"]) == (143, 0, {})


def no_save_at_a_signal():
    boundary.Boundary._ends = property(
        lambda self: self.trainer.should_stop or self._step >= self.trainer.max_steps
    )
    _Told(signal.SIGINT, "training", 0)()


@pytest.mark.nightly
def test_step_that_a_stop_does_not_save_would_be_seen(toy, tmp_path, whole):
    """After step 4 the run has taken 5, which is no number that is saved anyway."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), "--ckpt_path=auto"]
    options = dict(arguments=arguments, sabotage=no_save_at_a_signal, stops=True)
    stopped = run(fit, tmp_path / "stopped", **options)
    again = run(fit, tmp_path / "again", arguments=arguments)
    found = wrong_in(whole("prune")[1], stopped, again, signal.SIGINT, tmp_path)
    assert found == ["steps [4] were taken twice"]


TOLD_TWICE = """
import os, signal, sys, time
from shear_lit.training import signals
number, pause = int(sys.argv[1]), float(sys.argv[2])
signals.AT_ONCE_AFTER_SECONDS = 0.05
with signals.SIGNALS.heard():
    os.kill(os.getpid(), number)
    time.sleep(pause)
    os.kill(os.getpid(), number)
    other = signal.SIGINT if number != signal.SIGINT else signal.SIGTERM
    os.kill(os.getpid(), other)  # of another kind: the first of its kind
print("goes on after", signals.SIGNALS.received, flush=True)
os.kill(os.getpid(), other)  # while it ends: a launcher tells all when the first has left
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("pause", "code"), [(0.0, 0), (0.1, None)])
def test_second_signal_of_a_kind_ends_at_once_unless_it_came_with_the_first(number, pause, code):
    """Launchers send the same signal twice within a moment; who sends it again later means it."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD_TWICE, str(int(number)), str(pause)], capture_output=True, text=True
    )
    assert done.returncode == (-number if code is None else code), done.stderr
    assert done.stdout == ("" if code is None else f"goes on after {int(number)}\n")


TOLD_WHILE_LEAVING = """
import os, signal
from shear_lit.training.signals import StopSignals

class Late:
    def __del__(self):  # after Python has given up its handlers
        os.kill(os.getpid(), signal.SIGTERM)

late = Late()
signals = StopSignals()
with signals.heard():
    os.kill(os.getpid(), signal.SIGUSR1)
raise SystemExit(128 + signals.received)
"""


def test_process_that_was_told_leaves_with_its_own_code_whatever_comes_while_it_leaves():
    """srun --kill-on-bad-exit ends the others as soon as the first of them has left."""
    done = subprocess.run([sys.executable, "-c", TOLD_WHILE_LEAVING], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGUSR1, "")


def test_handlers_are_those_from_before_when_the_run_is_over():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals().heard():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({"SLURM_JOB_ID": "7"}, "requeue 7\n"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "requeue 7_2\n"),
        ({}, ""),
    ],
)
def test_job_of_slurm_goes_back_to_its_queue(tmp_path, monkeypatch, environment, asked):
    scontrol, notes = tmp_path / "scontrol", tmp_path / "notes"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n')
    scontrol.chmod(0o755)
    notes.touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for key in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    stopping._requeue()
    assert notes.read_text() == asked


def test_job_that_may_not_go_back_is_said(tmp_path, monkeypatch, caplog):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'Requested operation is presently disabled' >&2\nexit 1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    stopping._requeue()
    assert "SLURM job 7 was not requeued: Requested operation is presently disabled" in caplog.text


def test_lightning_neither_hears_signals_nor_asks_all_ranks_for_them_at_every_batch(monkeypatch):
    """By names that it does not promise: a version that has others fails here."""
    assert callable(_TrainingEpochLoop._broadcast_sigterm_tensor)
    assert callable(_SignalConnector.register_signal_handlers)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    leave_signals_alone(trainer)
    before = [signal.getsignal(number) for number in SIGNALS]
    monkeypatch.setattr(dist, "broadcast", lambda *args, **options: pytest.fail("it asks"))
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    trainer._signal_connector.register_signal_handlers()
    assert [signal.getsignal(number) for number in SIGNALS] == before
