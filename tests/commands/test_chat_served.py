"""The server that a directory is handed over to, started for good: OpenAI's paths, its answers, who may ask."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from importlib.util import find_spec

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from shear_lit.commands.chat.server import NEEDED
from tests.chat_models import write_chat_model

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED), reason="no server: pip install shear-lit[serve]"
)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
TOKENS, START_SECONDS = 12, 120


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("served") / "model", never_ends=True, num_hidden_layers=1)


@pytest.fixture(scope="module")
def port(directory, tmp_path_factory):
    """Of a server of the directory, as the command starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server"
    command = [sys.executable, "-m", "shear_lit", "chat", str(directory), "--serve", f"--port={port}"]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        )
    end = time.monotonic() + START_SECONDS
    try:
        while not answers(port):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield port
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def answers(port):
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def ask(port, **more):
    body = {"messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0, **more}
    headers = {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=100)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture(scope="module")
def expected(directory):
    """What transformers writes here."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt")
    written = model.generate(**prompt, do_sample=False, max_new_tokens=TOKENS)
    return tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_answer_is_the_one_that_transformers_writes(port, directory, expected):
    status, body = ask(port, model=str(directory), stream=False)
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"] == expected and expected


def test_answer_is_streamed(port, directory, expected):
    status, body = ask(port, model=str(directory), stream=True)
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    pieces = [json.loads(line) for line in lines if line != "[DONE]"]
    said = "".join(each["choices"][0]["delta"].get("content") or "" for each in pieces if each["choices"])
    assert status == 200 and said == expected and len(pieces) > 2


def test_no_request_chooses_the_model(port, directory, tmp_path):
    other = write_chat_model(tmp_path / "other", seed=4)
    status, body = ask(port, model=str(other), stream=False)
    assert status == 400 and f"pinned to '{directory}'" in json.loads(body)["detail"], body


def test_no_other_machine_may_ask(port):
    (line,) = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import socket; s = socket.socket(); print(s.connect_ex(('127.0.0.2', {port})))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert int(line) != 0
