"""How a run begins in its directory: one command line goes on for ever, and two runs never write in one place."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shear_lit.training.errors import RunError
from shear_lit.training.run_mark import MARK, RunMark, check_unmarked, token_in
from shear_lit.training.run_start import check_directory, set_aside_failed_start
from tests.training.forks import ForkError, run, start
from tests.training.runs import fit
from tests.training.stops import SPREAD

SHORT = "--trainer.max_steps=4"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("finished")
    run(fit, folder / "log", arguments=[*toy.arguments("pretrain", folder / "run"), SHORT])
    return folder / "run"


def fail_in_the_first_step():
    from shear_lit.training import module

    def fail(self, batch, index):
        raise OSError("a fault before the first checkpoint")

    module.ShearingModule.training_step = fail


def test_same_command_begins_again_where_a_start_failed_and_then_goes_on(toy, tmp_path):
    """A start that failed before its first checkpoint used to leave a directory that neither began nor went on."""
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), SHORT, "--ckpt_path=auto"]
    with pytest.raises(ForkError, match="a fault before the first checkpoint"):
        run(fit, tmp_path / "1", arguments=arguments, sabotage=fail_in_the_first_step)
    left = names(tmp_path / "run")
    assert "config.yaml" in left and "provenance.json" in left and MARK not in left
    run(fit, tmp_path / "2", arguments=arguments)
    assert names(tmp_path / "run" / "failed-start") == left
    before = (tmp_path / "run" / "metrics.csv").read_text()
    (again,) = run(fit, tmp_path / "3", arguments=[*arguments[:-2], "--trainer.max_steps=8", arguments[-1]])
    assert min(step for step, _ in again["batches"]) == 4
    assert (tmp_path / "run" / "metrics.csv").read_text().startswith(before)
    (finished,) = run(
        fit, tmp_path / "4", arguments=[*arguments[:-2], "--trainer.max_steps=8", arguments[-1]]
    )
    assert finished["batches"] == {}  # and once more: there is nothing left to do


def test_directory_of_a_failed_start_is_free_also_without_auto(tmp_path):
    (tmp_path / "checkpoints" / "step=000002").mkdir(parents=True)  # half-written: no meta.pt
    for name in ("config.yaml", "config-2.yaml", "metrics.csv", "events.out.tfevents.1", "provenance.json"):
        (tmp_path / name).touch()
    check_directory(tmp_path, None)
    set_aside_failed_start(tmp_path)
    assert names(tmp_path) == ["failed-start"]
    (tmp_path / "config.yaml").touch()
    set_aside_failed_start(tmp_path)
    assert names(tmp_path) == ["failed-start", "failed-start-2"]


def test_directory_with_something_else_is_refused_and_stays(tmp_path):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"holds 'thesis\.tex', which is of no run"):
        check_directory(tmp_path, None)


def test_run_that_can_go_on_is_not_begun_again(finished):
    with pytest.raises(RunError, match="Resume it with --ckpt_path auto"):
        check_directory(finished, None)
    check_directory(finished, str(finished / "checkpoints" / "step=000004.ckpt"))


def test_second_run_in_one_directory_is_refused_with_the_first_ones_process(toy, tmp_path):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), "--ckpt_path=auto"]
    first = start(fit, tmp_path / "first", arguments=arguments)
    first.until((tmp_path / "run" / "provenance.json").exists)
    os.kill(first.workers[0].pid, signal.SIGSTOP)
    try:
        with pytest.raises(ForkError, match=rf"is being written by process {first.workers[0].pid} on "):
            run(fit, tmp_path / "second", arguments=arguments)
    finally:
        os.kill(first.workers[0].pid, signal.SIGCONT)
    first.wait()
    assert not (tmp_path / "run" / MARK).exists()


def process_that_is_no_more():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def marked_by(folder, **changes):
    """A directory with the mark of another process, which is alive: this one's parent."""
    mark = RunMark(folder)
    mark._released.set()
    holder = json.loads((folder / MARK).read_text())
    (folder / MARK).write_text(json.dumps({**holder, "process": os.getppid(), "token": "x", **changes}))


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),
        ({"process": process_that_is_no_more()}, False),
        ({"process": process_that_is_no_more(), "host": "elsewhere"}, True),
        ({"process": process_that_is_no_more(), "processes_of": "pid:[1]"}, True),
        ({"slurm_job": "7"}, False),
        ({"slurm_job": "8"}, True),
    ],
)
def test_mark_of_the_dead_or_of_the_same_job_blocks_nobody(tmp_path, monkeypatch, changes, refused):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    marked_by(tmp_path, **{"slurm_job": None, **changes})
    if refused:
        with pytest.raises(RunError, match="is being written by process"):
            check_unmarked(tmp_path)
    else:
        check_unmarked(tmp_path)


def test_mark_that_is_a_minute_old_is_taken_over(tmp_path):
    marked_by(tmp_path, host="elsewhere")
    old = time.time() - 61
    os.utime(tmp_path / MARK, (old, old))
    mark = RunMark(tmp_path)
    assert token_in(tmp_path) == mark.token
    mark.release()
    assert names(tmp_path) == []


def test_mark_is_renewed_and_only_its_holder_removes_it(tmp_path, monkeypatch):
    monkeypatch.setattr("shear_lit.training.run_mark._RENEWED_EVERY_SECONDS", 0.02)
    mark = RunMark(tmp_path)
    old = time.time() - 50
    os.utime(tmp_path / MARK, (old, old))
    end = time.monotonic() + 10
    while (tmp_path / MARK).stat().st_mtime < old + 40 and time.monotonic() < end:
        time.sleep(0.01)
    assert (tmp_path / MARK).stat().st_mtime > old + 40
    (tmp_path / MARK).write_text('{"token": "another"}')
    mark.release()
    assert token_in(tmp_path) == "another"


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"process": "x"}'])
def test_damaged_mark_counts_by_its_age(tmp_path, content):
    (tmp_path / MARK).write_text(content)
    with pytest.raises(RunError, match="is being written"):
        check_unmarked(tmp_path)
    old = time.time() - 61
    os.utime(tmp_path / MARK, (old, old))
    check_unmarked(tmp_path)


def test_run_that_was_moved_goes_on_by_its_own_configuration(finished, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished, moved)
    before = names(finished), (finished / "metrics.csv").read_bytes()
    arguments = ["fit", f"--config={moved}/config.yaml", "--ckpt_path=auto", "--trainer.max_steps=8"]
    (record,) = run(fit, tmp_path / "log", arguments=arguments)
    assert min(step for step, _ in record["batches"]) == 4
    assert "step=000008.ckpt" in names(moved / "checkpoints")
    assert (names(finished), (finished / "metrics.csv").read_bytes()) == before


def test_validation_takes_the_runs_own_configuration(finished, tmp_path):
    run(fit, tmp_path / "log", arguments=["validate", f"--config={finished}/config.yaml", "--ckpt_path=last"])
    assert "nats per token" in (tmp_path / "log" / "0.log").read_text()


def test_reports_of_steps_that_are_taken_again_are_not_repeated(finished, tmp_path):
    """A run that had reached step 4 goes on from step 2: its rows of step 4 are kept aside, and none stands twice."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    arguments = [
        "fit",
        f"--config={folder}/config.yaml",
        f"--ckpt_path={folder}/checkpoints/step=000002.ckpt",
    ]
    run(fit, tmp_path / "log", arguments=arguments)
    with (folder / "metrics.csv").open() as file:
        rows = [(row["step"], row["name"]) for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) and {step for step, _ in rows} == {"0", "2", "4"}
    assert (folder / "metrics-2.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    shown.Reload()
    assert [event.step for event in shown.Scalars("loss/language")] == [2, 4]
    said = (tmp_path / "log" / "0.log").read_text()
    assert "goes back to step 0" in said and "step -1" not in said


def directory_of_its_own():
    """The second process sees another directory of the same name, as on a machine of its own."""
    from shear_lit.training import run_start

    run_start.PATIENCE_SECONDS = 0.5
    if os.environ.get("LOCAL_RANK") == "1":
        run_start.token_in = lambda directory: None


def test_directory_that_machines_do_not_share_is_refused(toy, tmp_path):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), *SPREAD]
    with pytest.raises(ForkError) as said:
        run(fit, tmp_path / "log", processes=2, arguments=arguments, sabotage=directory_of_its_own)
    errors = [line for line in str(said.value).splitlines() if line.startswith("error: ")]
    assert errors and all("is not the same directory for all processes" in error for error in errors)
    assert not (tmp_path / "run").exists()


def directory_that_shows_late():
    """A disk of several machines: one of them sees for a while what was there before."""
    from shear_lit.training import run_start

    if os.environ.get("LOCAL_RANK") == "1":
        own, looks = run_start.token_in, iter([None, None])
        run_start.token_in = lambda directory: next(looks, own(directory))


def test_directory_that_shows_late_on_another_machine_is_waited_for(toy, tmp_path):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), *SPREAD, SHORT]
    run(fit, tmp_path / "log", processes=2, arguments=arguments, sabotage=directory_that_shows_late)


def test_failed_start_is_set_aside_also_when_a_run_goes_on_from_elsewhere(toy, finished, tmp_path):
    (tmp_path / "run").mkdir()
    row = "0,loss/language,9.0"
    (tmp_path / "run" / "metrics.csv").write_text(f"step,name,value\n{row}\n")
    checkpoint = finished / "checkpoints" / "step=000002.ckpt"
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), SHORT, f"--ckpt_path={checkpoint}"]
    run(fit, tmp_path / "log", arguments=arguments)
    assert names(tmp_path / "run" / "failed-start") == ["metrics.csv"]
    assert row in (tmp_path / "run" / "failed-start" / "metrics.csv").read_text().splitlines()
    assert row not in (tmp_path / "run" / "metrics.csv").read_text().splitlines()


LOST = """
import sys, time
from pathlib import Path
from shear_lit.training import run_mark
run_mark._RENEWED_EVERY_SECONDS = 0.05
mark = run_mark.RunMark(Path(sys.argv[1]))
(Path(sys.argv[1]) / run_mark.MARK).write_text('{"token": "another", "process": 7, "host": "elsewhere"}')
time.sleep(200)
"""


def test_run_whose_directory_was_taken_over_ends(tmp_path):
    """It stood still so long that another one has gone on with it: what it would write is of no use."""
    done = subprocess.run(
        [sys.executable, "-c", LOST, str(tmp_path)], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 1
    assert "process 7 on elsewhere has taken over" in done.stderr
    assert token_in(tmp_path) == "another"
