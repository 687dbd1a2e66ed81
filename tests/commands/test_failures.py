"""Whatever ends a command becomes one line and an exit code."""

import errno
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shear_lit import cli
from shear_lit.commands import gates as command
from shear_lit.commands.failures import chain, failure_of
from shear_lit.commands.table import COMMANDS
from shear_lit.mistakes import Mistake


class WrongModel(Mistake):
    pass


@pytest.fixture
def ended(monkeypatch, capsys, tmp_path):
    """How ``gates`` ends when it raises: exit code and what was said."""

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where tracebacks are kept

    def ended(error):
        def fail(directory: str) -> None:
            raise error

        monkeypatch.setattr(command, "gates", fail)
        with pytest.raises(SystemExit) as left:
            cli.main(["gates", "x"])
        return left.value.code, capsys.readouterr().err

    return ended


def test_a_mistake_is_said_under_the_key_of_the_command(ended):
    assert ended(WrongModel("'x' is no model. Name one.", key="gates")) == (
        2,
        "error: directory='x' is no model. Name one.\n",
    )
    assert ended(WrongModel("x=3 is odd. Use 4.")) == (2, "error: x=3 is odd. Use 4.\n")


def test_a_mistake_inside_another_error_is_what_is_said(ended):
    error = RuntimeError("the library")
    error.__cause__ = WrongModel("'x' is no model.\n  Name one.", key="gates")
    assert ended(error) == (2, "error: directory='x' is no model. Name one.\n")


def test_an_error_of_a_worker_process_is_said_without_its_traceback(ended):
    trace = f"Traceback\n  x\n{__name__}.WrongModel: d='y' is bad. Go.\n"
    text = f"Caught WrongModel in DataLoader worker process 0.\n{trace}"
    assert ended(WrongModel(text)) == (2, "error: d='y' is bad. Go.\n")


def test_a_mistake_of_a_process_that_torch_started_is_said_as_such(ended):
    """``trainer.strategy=ddp_spawn``: what has ended a process arrives as the text of its traceback."""
    text = f"\n\n-- Process 1 terminated:\nTraceback\n  x\n{__name__}.WrongModel: d='y' is bad. Go.\n"
    raised = type("ProcessRaisedException", (Exception,), {})
    assert ended(raised(text)) == (2, "error: d='y' is bad. Go.\n")
    assert "Nobody foresaw" in ended(raised("Traceback\nKeyError: 3"))[1]


def test_a_run_that_failed_ends_with_1(ended):
    failed = WrongModel("the loss is nan. Look at it.")
    failed.exit_code = 1
    assert ended(failed)[0] == 1


def test_ctrl_c_ends_with_130(ended):
    code, said = ended(KeyboardInterrupt())
    assert code == 130 and said == "error: gates: interrupted. What was written before is whole.\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EMFILE])
def test_what_the_machine_refuses_is_said_with_its_place(ended, number):
    code, said = ended(OSError(number, os.strerror(number), "/some/place"))
    assert code == 1 and said.startswith("error: gates: '/some/place': ") and said.count("\n") == 1


def test_full_memory_is_said(ended):
    assert ended(MemoryError())[1].startswith("error: gates: memory is full")
    assert ended(type("OutOfMemoryError", (RuntimeError,), {})("CUDA"))[1].startswith(
        "error: gates: the accelerator"
    )


def test_what_nobody_foresaw_leaves_its_traceback_in_a_file(ended):
    code, said = ended(ZeroDivisionError("division by zero"))
    assert code == 1 and said.count("\n") == 1 and "Traceback" not in said
    assert "error: gates: ZeroDivisionError: division by zero. Nobody foresaw this" in said
    path = Path(re.search(r"with (\S+), which", said)[1])
    assert "raise error" in path.read_text() and path.read_text().startswith("Traceback")
    path.unlink()


def test_tracebacks_are_shown_where_they_are_asked_for(ended, monkeypatch):
    monkeypatch.setenv("SHEAR_DEBUG", "1")
    code, said = ended(WrongModel("x=3 is odd. Use 4."))
    assert code == 2 and "Traceback" in said and said.endswith("error: x=3 is odd. Use 4.\n")
    monkeypatch.setenv("SHEAR_DEBUG", "0")
    assert "Traceback" not in ended(WrongModel("x=3 is odd. Use 4."))[1]


def test_words_of_a_command_take_the_place_of_shared_keys():
    rank = COMMANDS["rank"]
    assert rank.word("model.source") == "source" and rank.word("data.remote.attempts") == "remote.attempts"
    assert COMMANDS["fit"].word("checkpoint.keep") == "checkpoint.keep"
    assert rank.word("data.remotely") == "data.remotely" and rank.word("criterion") == "criterion"
    said = failure_of(WrongModel("'a' and model.source=b differ.", key="data.directory"), "rank", rank).line
    assert said == "error: data='a' and model.source=b differ."


@pytest.mark.parametrize("words", [["--help"], ["rank", "--help"]], ids=str)
def test_a_closed_pipe_ends_quietly(words):
    """``shear-lit data ... | head -1``: the reader goes before all is written."""
    code = "from shear_lit import cli; cli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b"" and process.wait() == 0


def test_a_config_file_that_is_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "run.yaml")
    with pytest.raises(SystemExit) as left:
        cli.main(["fit", f"--config={tmp_path / 'run.yaml'}"])
    assert left.value.code == 2 and "is a pipe or a device" in capsys.readouterr().err


def test_error_that_comes_from_itself_is_told_once():
    """A thread's error that is raised again while it is handled has itself among what it came from."""
    first, second = OSError(28, "No space left on device", "x"), ValueError("told again")
    first.__context__, second.__context__ = second, first
    assert list(chain(first)) == [first, second]
    assert failure_of(first, "fit", None).code == 1
