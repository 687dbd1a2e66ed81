"""A judge behind an endpoint: what it is asked, when it is asked again, and what is never shown."""

import json
import logging
import traceback

import pytest

from shear_lit.evaluation.answers.judge import TRIES, Judge, JudgeError
from tests.evaluation.answers.endpoint import endpoint, said

PROMPT = [{"role": "user", "content": "Which is the largest planet?"}]
KEY = "sk-very-secret-0123"


def judge(url, waited=None, **changes):
    return Judge(url=url, model="wise", wait=(lambda s: None) if waited is None else waited.append, **changes)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("A", 1.0),
        (" **B**\nbecause it is shorter", 0.0),
        ("Answer: C", 0.5),
        ("A good question", None),
        ("Both", None),
        (None, None),
        ("", None),
    ],
)
def test_letter_of_a_reply_is_read_and_other_words_are_none(reply, value):
    with endpoint(lambda number, body: said(reply)) as server:
        assert judge(server.url).prefers(PROMPT, "Jupiter.", "Mars.") == value
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions" and request["body"]["model"] == "wise"
    words = request["body"]["messages"][-1]["content"]
    assert words.index("largest planet") < words.index("Jupiter.") < words.index("Mars.")
    assert "Authorization" not in request["headers"]


def test_key_comes_from_the_environment_and_is_never_shown(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    replies = [(503, {}, f"no key {KEY} today".encode()), (400, {}, f"bad {KEY}".encode())]
    with endpoint(lambda number, body: replies[number]) as server, pytest.raises(JudgeError) as found:
        judge(server.url, variable="MY_KEY").prefers(PROMPT, "a", "b")
    assert all(request["headers"]["Authorization"] == f"Bearer {KEY}" for request in server.requests)
    shown = (
        "".join(traceback.format_exception(found.value))
        + caplog.text
        + repr(judge(server.url, variable="MY_KEY"))
    )
    assert KEY not in shown and "***" in shown and "HTTP 400" in str(found.value)


@pytest.mark.parametrize(
    ("code", "headers", "waits"), [(429, {"Retry-After": "7"}, 7.0), (503, {}, 1.0), (500, {}, 1.0)]
)
def test_endpoint_that_is_busy_is_asked_again_later(code, headers, waits):
    waited = []
    with endpoint(lambda number, body: (code, headers, b"busy") if number == 0 else said("A")) as server:
        assert judge(server.url, waited).prefers(PROMPT, "a", "b") == 1.0
    assert waited == [waits] and len(server.requests) == 2


def test_endpoint_that_stays_busy_is_given_up_in_one_line():
    waited = []
    with (
        endpoint(lambda number, body: (503, {}, b"line\nbreaks \x1b[31m")) as server,
        pytest.raises(JudgeError) as found,
    ):
        judge(server.url, waited).prefers(PROMPT, "a", "b")
    assert waited == [1, 2, 4, 8] and len(server.requests) == TRIES
    assert "\n" not in str(found.value) and "\x1b" not in str(found.value)
    assert "asked 5 times (HTTP 503: line breaks" in str(found.value)


def test_endpoint_that_is_not_there_is_one_line():
    with endpoint(lambda number, body: said("A")) as server:
        pass
    with pytest.raises(JudgeError, match=r"did not answer, asked 5 times .*refused") as found:
        judge(server.url).prefers(PROMPT, "a", "b")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((401, {}, b""), "asks for a key, and there is none in the environment variable OPENAI_API_KEY"),
        ((404, {}, b"no such path"), r"refuses the question \(HTTP 404: no such path\)"),
        ((200, {}, b"<html>"), "answered what no chat completion is: <html>"),
        ((200, {}, b'{"choices": []}'), "no chat completion"),
        ((200, {}, b"[" * 100_000), "no chat completion"),
    ],
)
def test_answers_that_are_of_no_use_are_one_line_and_not_asked_again(monkeypatch, reply, words):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with endpoint(lambda number, body: reply) as server, pytest.raises(JudgeError, match=words) as found:
        judge(server.url).prefers(PROMPT, "a", "b")
    assert len(server.requests) == 1 and "\n" not in str(found.value)


def test_key_follows_no_redirect(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with endpoint(lambda number, body: said("A")) as elsewhere:
        away = {"Location": f"{elsewhere.url}/chat/completions"}
        for code in (301, 302, 307):
            with (
                endpoint(lambda number, body, code=code: (code, away, b"")) as server,
                pytest.raises(JudgeError),
            ):
                judge(server.url).prefers(PROMPT, "a", "b")
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("example.org/v1", "no address of an endpoint"),
        ("ftp://example.org", "no address of an endpoint"),
        ("http://example.org/v1", "in the clear"),
        ("https://me:word@example.org/v1", "has a name or a password in it"),
    ],
)
def test_addresses_that_cannot_be_asked_are_refused_before_anything_is(monkeypatch, url, words):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(JudgeError, match=words) as found:
        Judge(url=url, model="wise")
    assert "word@" not in str(found.value) and KEY not in str(found.value)


def test_whole_address_is_taken_as_it_is():
    with endpoint(lambda number, body: said("C")) as server:
        judge(f"{server.url}/chat/completions/").prefers(PROMPT, "a", "b")
    assert json.loads(json.dumps(server.requests[0]["path"])) == "/v1/chat/completions"
