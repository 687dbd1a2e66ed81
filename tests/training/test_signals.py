"""A run that is told to stop saves what it has, says so with its exit code, and goes on by the same command line."""

import signal

import pytest

from shear_lit.training import boundary
from tests.training.forks import run
from tests.training.runs import fit
from tests.training.stops import MOMENTS, SPREAD, _Told, stop_and_go_on, wrong_in

# The whole matrix is in ``make nightly``: here each moment and each signal, alone and with two processes.
CASES = [
    (1, signal.SIGTERM, "before the first step"),
    (1, signal.SIGINT, "training"),
    (1, signal.SIGUSR1, "validation"),
    (1, signal.SIGTERM, "saving"),
    (2, signal.SIGUSR1, "training"),
    (2, signal.SIGTERM, "validation"),
]


@pytest.mark.parametrize(("processes", "number", "moment"), CASES)
def test_stopped_run_goes_on_as_if_it_had_not_been(toy, tmp_path, whole, processes, number, moment):
    assert moment in MOMENTS
    arguments = toy.arguments("prune", tmp_path / "run")
    stopped, again = stop_and_go_on(arguments, tmp_path, number, moment, processes=processes)
    uninterrupted = whole("prune", *(SPREAD if processes == 2 else ()), processes=processes)[1]
    assert wrong_in(uninterrupted, stopped, again, number, tmp_path) == []


def no_save_at_a_signal():
    boundary.Boundary._ends = property(
        lambda self: self.trainer.should_stop or self._step >= self.trainer.max_steps
    )
    _Told(signal.SIGINT, "training", 0)()


def test_step_that_a_stop_does_not_save_would_be_seen(toy, tmp_path, whole):
    """After step 4 the run has taken 5, which is no number that is saved anyway."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), "--ckpt_path=auto"]
    options = dict(arguments=arguments, sabotage=no_save_at_a_signal, stops=True)
    stopped = run(fit, tmp_path / "stopped", **options)
    again = run(fit, tmp_path / "again", arguments=arguments)
    found = wrong_in(whole("prune")[1], stopped, again, signal.SIGINT, tmp_path)
    assert found == ["steps [4] were taken twice"]
