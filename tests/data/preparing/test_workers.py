"""Worker processes: what they answer, and what is said when one of them ends."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.preparing import workers as module
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.progress import Progress
from shear_lit.data.preparing.worker import answer

TEXTS = [f"document number {number} says {number * number}" for number in range(100)]


class Failing:
    """A tokenizer of pieces of work that fails."""

    def __init__(self, error):
        self.error = error

    def write(self, *_):
        raise self.error


def raised(error):
    """What the starting process raises when a worker meets ``error``."""
    found = answer(Failing(error), {"task": {}, "spool": "/somewhere/spool/x"}, b"")
    unit = type("Unit", (), {"spool": Path("/somewhere/spool/x")})
    with pytest.raises((DataError, RuntimeError)) as caught:
        module._record(found, unit)
    return caught.value


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_in_a_worker_is_told_like_one_here(number):
    error = raised(OSError(number, os.strerror(number)))
    assert isinstance(error, DataError) and "'/somewhere/spool': its disk is full. Make space" in str(error)


def test_other_failures_of_a_worker_keep_their_words():
    assert str(raised(DataError("a file cannot be read"))) == "a file cannot be read"
    assert "cannot be written (Read-only" in str(raised(OSError(errno.EROFS, "Read-only file system")))
    assert "No module named 'pyarrow'" in str(raised(ModuleNotFoundError("No module named 'pyarrow'")))
    assert "out of memory" in str(raised(MemoryError()))


def test_a_worker_that_ends_by_itself_is_told_with_what_to_do(settings, write_jsonl, monkeypatch):
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, unit_bytes=500)
    code = "import os, sys; sys.stdin.buffer.readline(); sys.stdin.buffer.readline(); os.kill(os.getpid(), 9)"
    with monkeypatch.context() as patch:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        patch.setattr(module, "_started", lambda: subprocess.Popen([sys.executable, "-c", code], **pipes))
        with pytest.raises(DataError, match=r"workers=2: .*exit code -9.*Lower workers.*it continues"):
            prepare(options)
    assert prepare(options).domains["web"].documents == 100


def test_a_mistake_in_a_worker_is_told_with_its_traceback(settings, write_jsonl, monkeypatch):
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, unit_bytes=500)
    monkeypatch.setattr(
        module, "_request", lambda unit: {"task": {"kind": "?"}, "spool": str(unit.spool), "block": 0}
    )
    with pytest.raises(RuntimeError, match=r"a worker process failed:\nTraceback[\s\S]*AssertionError"):
        prepare(options)


def test_workers_end_with_the_run(settings, write_jsonl, monkeypatch):
    started, real = [], module._started

    def recorded():
        started.append(real())
        return started[-1]

    monkeypatch.setattr(module, "_started", recorded)
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, unit_bytes=500)
    prepare(options)
    broken = replace(
        options, domains={"web": write_jsonl("bad.jsonl.gz", TEXTS)}, output=options.output + "-2"
    )
    with pytest.raises(DataError, match=r"bad\.jsonl\.gz' cannot be read"):
        prepare(broken)
    assert len(started) >= 2 and all(process.poll() is not None for process in started)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_workers_end_with_a_process_that_is_killed(settings, write_jsonl, tmp_path):
    options = settings({"web": write_jsonl("web.jsonl", TEXTS)}, unit_bytes=50)
    child = os.fork()
    if not child:
        started = module._started

        def recorded():
            process = started()
            (tmp_path / f"worker-{process.pid}").touch()
            return process

        module._started = recorded
        prepare(options)
        os._exit(0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((tmp_path / "out.partial" / "spool").glob("*")):
        time.sleep(0.01)
    workers = [int(path.name.split("-")[1]) for path in tmp_path.glob("worker-*")]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while time.monotonic() < deadline and any(alive(worker) for worker in workers):
        time.sleep(0.01)
    assert len(workers) == 2 and not any(alive(worker) for worker in workers)
    assert prepare(options).domains["web"].documents == 100


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_bar_shows_tokens_per_second_and_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(4000) as progress:
        progress.skip(1000)
        progress._bar.start_t -= 10
        progress._start -= 10
        progress.add(1000, 50_000)
        progress._bar.refresh()
    shown = capsys.readouterr().err
    assert "2.00k/4.00k" in shown and "5k tokens/s" in shown and "<00:20" in shown
    assert progress.skipped == 1


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
