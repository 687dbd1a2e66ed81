"""A client is asked in its own interpreter, and whatever becomes of it is an answer."""

import json
import sys
import time

import pytest

from shear_lit.evaluation.clients import answering
from shear_lit.evaluation.clients.asking import CLIENTS, ClientError, Job, ask, check_installed, installed

CLIENT = """
import json, os, sys, time
PACKAGE = "json"
def prepare():
    pass
def answer(job):
    name = os.path.basename(job["directory"])
    if name == "abort":
        os.write(2, b"a line\\nGGML_ASSERT(it) failed\\nmore\\n")
        os.abort()
    if name == "leave":
        print("ERROR: no such model", flush=True)
        sys.exit(3)
    if name == "hang":
        time.sleep(60)
    if name == "raise":
        raise ValueError("two\\nlines")
    if name == "garbage":
        print("garbage")
        return {"kind": {1, 2}}
    print("chatter {not json}")
    return {"kind": "logits", "logits": job["logits"], "greedy": [os.getpid()], "ids": None}
"""


@pytest.fixture
def client(tmp_path):
    path = tmp_path / "in_fake.py"
    path.write_text(CLIENT)
    return path


def jobs(*names):
    return [Job(directory=f"/models/{name}", tokens=[[1, 2]], logits="x.npy") for name in names]


def test_every_job_has_an_answer_whatever_the_client_does(client, tmp_path):
    kinds = ("good", "abort", "leave", "raise", "garbage", "hang", "good")
    answers = tmp_path / "answers.jsonl"
    begun = time.monotonic()
    found = ask(client, sys.executable, jobs(*kinds), answers=answers, seconds_per_job=1.0)
    assert time.monotonic() - begun < 10
    assert [answer.directory.rpartition("/")[2] for answer in found] == list(kinds)
    first, abort, leave, error, garbage, hang, last = found
    assert first.error is last.error is None
    assert first.greedy != last.greedy  # each job has a process of its own
    assert "SIGABRT" in abort.error and "GGML_ASSERT(it) failed" in abort.error
    assert "exit code 3" in leave.error and "no such model" in leave.error
    assert error.error == "ValueError: two lines"
    assert "TypeError" in garbage.error
    assert "within 1 seconds" in hang.error
    assert len(answers.read_text().splitlines()) == len(kinds)


def test_client_that_cannot_be_imported_is_an_answer(client):
    client.write_text(CLIENT.replace("    pass", "    import json.no_such_module"))
    (answer,) = ask(client, sys.executable, jobs("good"))
    assert "no_such_module" in answer.error


def test_program_that_dies_is_an_answer(client):
    client.write_text("syntax error here")
    first, second = ask(client, sys.executable, jobs("good", "good"))
    assert "exit code 1" in first.error and "SyntaxError" in first.error
    assert second.error == first.error


def test_answers_are_appended_to_those_of_an_earlier_run(client, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"directory": "earlier"}\n{"half a li\n')
    (found,) = ask(client, sys.executable, jobs("good"), answers=answers)
    assert found.directory == "/models/good"
    assert [json.loads(line)["directory"] for line in answers.read_text().splitlines()[::2]] == [
        "earlier",
        "/models/good",
    ]


def test_package_path_of_this_process_does_not_reach_the_client(client, monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (answer,) = ask(client, sys.executable, jobs("good"))
    assert answer.error is None


def test_clients_of_an_interpreter_are_found_with_their_versions():
    found = installed(sys.executable)
    assert found["transformers"][0] == __import__("transformers").__version__
    assert set(found) <= set(CLIENTS)


def test_interpreter_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(
        ClientError, match=r"python='/nowhere/python' is no Python interpreter.*Correct the path"
    ):
        installed("/nowhere/python")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no python\n")
    script.chmod(0o755)
    with pytest.raises(ClientError, match="is no Python interpreter"):
        installed(str(script))


def test_client_that_is_not_installed_is_refused(monkeypatch):
    from shear_lit.evaluation.clients import asking

    monkeypatch.setattr(asking, "installed", lambda _: {"llama.cpp": ("1", "the converter; get it")})
    with pytest.raises(ClientError, match=r"client=vllm is not installed .*it has llama.cpp.*--python"):
        check_installed("vllm", "python")
    with pytest.raises(ClientError, match=r"client=llama.cpp .*lacks the converter; get it"):
        check_installed("llama.cpp", "python")


def test_client_whose_parent_package_is_absent_is_not_installed():
    assert answering.installed_version("no_such_parent.child") is None
    assert answering.installed_version("no_such_package") is None
