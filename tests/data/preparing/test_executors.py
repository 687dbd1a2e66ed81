"""Tasks are done anywhere and in any order; what goes wrong in a process is told as it is here."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.preparing import executors as module
from shear_lit.data.preparing.executors import Here, Processes, executor_of
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.reporting import StageProgress
from shear_lit.data.text.kind import Source
from tests.trees import tree

TEXTS = [f"document number {number} says {number * number}" for number in range(100)]


def squared(number):
    return number * number


def failing(error, _):
    raise error


def ended(_):
    os.kill(os.getpid(), signal.SIGKILL)


def noted(folder, number):
    (folder / str(os.getpid())).touch()
    time.sleep(0.01)
    return number


@pytest.mark.parametrize("executor", [Here(), Processes(2)], ids=["here", "processes"])
def test_every_task_is_done_once(executor):
    assert sorted(executor.run(squared, range(20))) == [(n, n * n) for n in range(20)]
    assert list(executor.run(squared, [])) == []


def test_no_more_tasks_are_taken_than_wait_for_a_process():
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield number

    results = Processes(2).run(squared, tasks())
    next(results)
    assert len(taken) <= 5
    results.close()


@pytest.mark.parametrize("executor", [Here(), Processes(2)], ids=["here", "processes"])
@pytest.mark.parametrize(
    "error",
    [
        DataError("a file cannot be read", key="domains"),
        OSError(errno.ENOSPC, "No space left"),
        MemoryError(),
    ],
    ids=["data", "disk", "memory"],
)
def test_what_a_task_raises_arrives_as_it_was(executor, error):
    with pytest.raises(type(error)) as caught:
        list(executor.run(partial(failing, error), range(3)))
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "key", None) == getattr(error, "key", None)
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)


def test_a_process_that_ends_by_itself_is_told_with_what_to_do():
    with pytest.raises(
        DataError, match=r"workers=2: a worker process ended by itself.*Lower workers.*it continues"
    ):
        list(Processes(2).run(ended, range(3)))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_processes_end_with_one_that_is_killed(tmp_path):
    child = os.fork()
    if not child:
        for _ in Processes(2).run(partial(noted, tmp_path), range(100_000)):
            pass
        os._exit(0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while time.monotonic() < deadline and any(alive(worker) for worker in workers):
        time.sleep(0.01)
    assert len(workers) == 2 and not any(alive(worker) for worker in workers)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Backwards:
    """Does all tasks, the last one first, each of them twice."""

    def run(self, do, tasks):
        for task in reversed(list(tasks)):
            do(task)
            yield task, do(task)


def test_the_order_of_tasks_changes_no_byte(settings, write_jsonl, tmp_path):
    files = {
        "web": write_jsonl("web.jsonl", TEXTS),
        "code": write_jsonl("code.jsonl", [t[::-1] for t in TEXTS]),
    }
    trees = {}
    for name, executor in (("here", Here()), ("backwards", Backwards()), ("processes", Processes(2))):
        options = settings(files, unit_bytes=500, chunk_bytes=16 * 2 * 9, output=str(tmp_path / name))
        prepare(options, executor)
        trees[name] = tree(options.output)
    assert trees["here"] == trees["backwards"] == trees["processes"]


def test_an_executor_that_lost_a_result_would_be_found(settings, write_jsonl):
    """The twin."""

    class Loses:
        def run(self, do, tasks):
            yield from ((task, do(task)) for task in list(tasks)[1:])

    with pytest.raises(RuntimeError, match="the executor has lost results"):
        prepare(settings({"web": write_jsonl("web.jsonl", TEXTS)}, unit_bytes=500), Loses())


def test_small_text_needs_no_processes(settings, write_jsonl, monkeypatch):
    monkeypatch.setattr(module, "Processes", None)
    assert (
        prepare(settings({"web": write_jsonl("web.jsonl", TEXTS)}, workers=8)).domains["web"].documents == 100
    )


def test_the_bar_shows_documents_bytes_per_second_and_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    source = Source(domain="web", name="web.jsonl", kind="lines", bytes=4_000_000)
    with StageProgress("Tokenising", [source]) as progress:
        progress._bar.start_t -= 10
        progress._bar.last_print_t -= 10
        progress.add_piece(1_000_000, 5_000)
        progress._bar.refresh()
    shown = capsys.readouterr().err
    assert "1.00M/4.00M" in shown and "100kB/s" in shown and "<00:30" in shown and "5,000 documents" in shown


def test_worker_processes_import_nothing_from_the_current_directory(
    settings, write_jsonl, tmp_path, monkeypatch
):
    """Where a file may be called like a library."""
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, unit_bytes=500, workers=2)
    (tmp_path / "here").mkdir()
    for name in ("json", "numpy", "tokenizers", "transformers", "yaml"):
        (tmp_path / "here" / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path / "here")
    prepare(options)
    assert not (tmp_path / "ran").exists()


def test_a_cluster_that_is_not_installed_is_told(settings, write_jsonl, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(
        DataError, match=r"^executor='ray': the package 'ray' is not installed.*shear-lit\[ray\]"
    ):
        executor_of(settings({"web": write_jsonl("web.jsonl", TEXTS)}, executor="ray"), 1)


@pytest.mark.skipif(
    not os.environ.get("SHEAR_LIT_CORPUS"), reason="SHEAR_LIT_CORPUS=all: a cluster takes 10 s"
)
def test_what_a_task_raises_on_a_cluster_arrives_as_it_was():
    pytest.importorskip("ray", reason="the extra ray is not installed")
    code = (
        "from functools import partial; import errno, pickle, sys\n"
        "from shear_lit.data.preparing.ray_executor import RayCluster\n"
        "from shear_lit.data.errors import DataError\n"
        "from tests.data.preparing.test_executors import ended, failing, squared\n"
        "cluster = RayCluster(2)\n"
        "assert sorted(cluster.run(squared, range(20))) == [(n, n * n) for n in range(20)]\n"
        "for error in (DataError('it cannot be read', key='domains'), OSError(errno.ENOSPC, 'full'), MemoryError()):\n"
        "    try:\n"
        "        list(cluster.run(partial(failing, error), range(3)))\n"
        "    except type(error) as caught:\n"
        "        assert (type(caught), str(caught)) == (type(error), str(error)), repr(caught)\n"
        "        assert getattr(caught, 'errno', None) == getattr(error, 'errno', None)\n"
        "    else:\n"
        "        raise AssertionError(error)\n"
        "try:\n"
        "    list(cluster.run(ended, range(2)))\n"
        "except DataError as caught:\n"
        "    assert 'ended by itself several times' in str(caught)\n"
        "else:\n"
        "    raise AssertionError('no process ended')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert found.returncode == 0, found.stderr[-3000:]
