"""``shear-lit report``: what it reads of a run's directory, in whatever state that is."""

import csv
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from shear_lit import cli
from shear_lit.commands.run_reading import read_run
from shear_lit.commands.run_tables import tables_of
from shear_lit.reporting.model_facts import RepairFacts
from shear_lit.reporting.repair_page import repair_page
from shear_lit.theory.shape import Axis
from tests.reporting.shown_runs import SMALL, Shown
from tests.reporting.test_run_page import Cells

DEMO = """# The demo

| model | mean |
|---|---:|
| source | 3.5 |

## What each writes after "Once"

- source: upon | a time
"""


@pytest.fixture
def run(tmp_path):
    return Shown().write(tmp_path / "run")


def page_of(*words):
    cli.main(["report", *map(str, words)])


def test_report_is_written_beside_the_run_and_says_where(run, capsys):
    page_of(run)
    assert str(run / "report.html") in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert "It took 40 of 40 steps on 2,560 tokens of 3 domains" in page and "it has ended" in page
    assert "layers 6 to 3" in page and "3.1000 to 2.1000" in page and "2 of 3 domains reached" in page


def test_facts_are_those_of_the_files(run):
    found = read_run(run)
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(map(len, found.series.values())) == len(rows)
    assert all(dict(found.series[row["name"]])[int(row["step"])] == float(row["value"]) for row in rows)
    log = json.loads((run / "mixture.json").read_text())
    assert [(each["step"], each["weights"]) for each in log["updates"]] == list(found.mixture)
    assert [shot.step for shot in found.gates] == [0, 20, 40]
    assert found.reference("law") == pytest.approx(2.15)
    assert found.cut.shape == Shown().target and found.source_shape == SMALL
    last = found.gates[-1].chances[Axis.HIDDEN]
    assert set(last.topk(16).indices.tolist()) == set(found.cut.kept[Axis.HIDDEN].tolist())


def test_page_shows_every_number_of_a_short_run(run):
    page_of(run)
    shown = {row[0]: row for row in Cells((run / "report.html").read_text()).rows}
    assert {
        "loss/language",
        "size/hidden/expected",
        "multipliers/layers/first",
        "memory/peak_gib",
    } <= shown.keys()


def test_run_that_stopped_is_told_from_one_that_goes_on(tmp_path):
    run = Shown(taken=20).write(tmp_path / "run")
    assert "stopped before its end" in read_run(run).state
    mark = {"process": os.getpid(), "host": socket.gethostname(), "processes_of": "", "token": "t"}
    if (processes := Path("/proc/self/ns/pid")).is_symlink():
        mark["processes_of"] = str(processes.readlink())
    (run / "running.json").write_text(json.dumps(mark))
    assert read_run(run).state == "it goes on"
    (run / "running.json").write_text(json.dumps(mark | {"host": "another"}))
    assert read_run(run).state == "it goes on"  # as far as one can tell: it was renewed just now
    os.utime(run / "running.json", (0, 0))
    assert "stopped before its end" in read_run(run).state


def test_line_that_is_half_written_is_left_for_the_next_time(run):
    with (run / "metrics.csv").open("a") as file:
        file.write("41,loss/language,3.")
    found = read_run(run)
    assert found.last_step == 40 and found.notes == ()


def test_numbers_that_are_not_finite_are_counted(run, caplog):
    with (run / "metrics.csv").open("a") as file:
        file.write("41,loss/language,nan\r\nsomething\r\n")
    assert "2 lines of metrics.csv hold no finite number" in read_run(run).notes[0]
    assert "2 lines" in caplog.text


def test_damaged_and_foreign_files_are_noted_and_the_rest_is_shown(run, tmp_path):
    (run / "gates" / "step=000040.safetensors").write_bytes(b"no gates")
    (run / "mixture.json").write_text("{")
    (tmp_path / "secret.json").write_text('{"commit": "secret"}')
    (run / "provenance.json").unlink()
    (run / "provenance.json").symlink_to(tmp_path / "secret.json")
    found = read_run(run)
    assert len(found.notes) == 3 and [shot.step for shot in found.gates] == [0, 20]
    page_of(run)
    page = (run / "report.html").read_text()
    assert "secret" not in page and "leads out of the run" in page and "cross-entropy" in page


def test_copied_run_of_which_only_metrics_are_left_has_a_page(run, tmp_path):
    (tmp_path / "copy").mkdir()
    shutil.copy(run / "metrics.csv", tmp_path / "copy")
    page_of(tmp_path / "copy")
    assert "Losses" in (tmp_path / "copy" / "report.html").read_text()


def test_run_without_pruning_and_two_runs_have_pages(run, tmp_path):
    other = Shown(prunes=False, domains=("only",), seed=1).write(tmp_path / "other")
    page_of(other, f"--output={tmp_path}/alone.html")
    assert "Gates" not in (tmp_path / "alone.html").read_text()
    page_of(run, other, f"--output={tmp_path}/both.html")
    rows = Cells((tmp_path / "both.html").read_text()).rows
    assert ["model.seed", "0", "1"] in rows


def test_demo_is_shown_with_both_stages_and_its_samples(tmp_path):
    Shown().write(tmp_path / "demo" / "prune")
    Shown(prunes=False).write(tmp_path / "demo" / "continue")
    (tmp_path / "demo" / "report.md").write_text(DEMO)
    page_of(tmp_path / "demo")
    rows = Cells((tmp_path / "demo" / "report.html").read_text()).rows
    assert ["source", "3.5"] in rows and ["source", "upon | a time"] in rows


def test_repair_page_is_read_as_it_is_written():
    facts = RepairFacts(
        tokens=9, sequences=3, data_fingerprint="d" * 64, parts="embedding", weights=1, refitted=1
    )
    (found,) = tables_of(repair_page([("model.a", 0.1, 0.5, 0.25, True)], facts))
    assert found.rows == (("model.a", "0.5000", "0.2500", "0.1"),) and "9 tokens" in found.said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{place}/nowhere"], "run='{place}/nowhere' is no directory"),
        (["{place}/empty"], "run='{place}/empty' holds neither a config.yaml nor a metrics.csv"),
        (["{place}/run", "{place}/empty"], "other='{place}/empty' holds neither"),
        (["{place}/run", "{place}/run"], "other={place}/run: it is the run itself"),
        (["{place}/run", "--output={place}/empty"], "output='{place}/empty' is a directory"),
    ],
)
def test_wrong_report_is_refused(run, tmp_path, capsys, words, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        page_of(*(word.format(place=tmp_path) for word in words))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said.format(place=tmp_path) in error and error.count("\n") == 1
