"""A directory is loaded by a client in a process of its own, and what differs is said and ends with exit code 1."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MistralConfig

from shear_lit import cli
from shear_lit.commands import verification as command
from shear_lit.commands.verification import VerifyError
from shear_lit.commands.verify import verify
from shear_lit.data.errors import DataError
from shear_lit.evaluation.clients.asking import Answer, ClientError, Job, ask
from shear_lit.evaluation.clients.comparison import difference
from shear_lit.evaluation.clients.reference import (
    TEXT,
    expected_of,
    probe_of,
    unseen_window,
    with_short_window,
)
from shear_lit.models.huggingface import SourceError, read_config
from tests import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, and three twins of it that are each wrong in one way."""
    root = tmp_path_factory.mktemp("models")
    tiny.write_source(root / "right", tiny.config(tied=False))
    for twin in ("tensor", "theta", "missing", "ids"):
        shutil.copytree(root / "right", root / twin)
    weights = load_file(root / "right" / "model.safetensors")
    changed = {**weights, "model.norm.weight": weights["model.norm.weight"] * 1.001}
    save_file(changed, root / "tensor" / "model.safetensors", metadata={"format": "pt"})
    del weights["lm_head.weight"]
    save_file(weights, root / "missing" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((root / "right" / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500.0
    (root / "theta" / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def answers(models):
    """What the client says of all of them: it is started once."""
    probe = probe_of(read_config(str(models / "right")))
    jobs = [
        Job(
            directory=str(models / name),
            tokens=[probe.tokens],
            logits=str(models / f"{name}.npy"),
            greedy_from=probe.prompt if name == "right" else None,
            new_tokens=probe.new_tokens,
            text=TEXT if name == "right" else None,
            ends=(7, 8),
        )
        for name in ("right", "tensor", "theta", "missing")
    ]
    found = ask("transformers", sys.executable, jobs)
    return {Path(answer.directory).name: answer for answer in found}


@pytest.fixture(scope="module")
def expected(models):
    directory = str(models / "right")
    return expected_of(directory, probe_of(read_config(directory)), text=TEXT)


def test_client_computes_the_same(answers, expected):
    right = answers["right"]
    assert right.error is None and right.version == __import__("transformers").__version__
    assert difference(right, expected).same
    assert (right.greedy, right.ids) == (expected.greedy, expected.ids)
    assert right.stops == [7]  # where its generation settings say so, and not behind the other one


@pytest.mark.parametrize("twin", ["tensor", "theta"])
def test_twin_is_told_from_the_model(answers, expected, twin):
    assert answers[twin].error is None
    assert not difference(answers[twin], expected).same


def test_weight_that_would_be_made_up_is_a_refusal(answers):
    assert answers["missing"].error == "ValueError: missing keys: lm_head.weight (1)"


@pytest.fixture
def asked(monkeypatch, answers, models):
    """The command, with a client that has already answered."""
    jobs = []

    def answer(client, python, batch):
        jobs.extend(batch)
        return [answers[Path(job.directory).name] for job in batch]

    monkeypatch.setattr(command, "ask", answer)
    monkeypatch.setattr(command, "installed", lambda _: {"transformers": ("5", None)})
    monkeypatch.setattr(command, "check_installed", lambda *_: "5")
    return jobs


def test_verify_says_same_and_ends_well(asked, models):
    result = verify(str(models / "right"))
    assert result.exit_code == 0
    line = str(result).splitlines()[1]
    assert line.startswith("transformers") and "same:" in line and "32 greedy tokens the same" in line
    assert asked[0].text == TEXT and asked[0].greedy_from == asked[0].tokens[0][:8]


@pytest.mark.parametrize("twin", ["tensor", "theta"])
def test_verify_against_another_model_says_different(asked, models, twin):
    result = verify(str(models / twin), "transformers", against=str(models / "right"))
    assert result.exit_code == 1 and "DIFFERENT: max |difference| = " in str(result)
    assert f"against {models / 'right'}" in str(result)


def test_refusal_and_difference_end_with_exit_code_1(asked, models, capsys, monkeypatch):
    monkeypatch.setattr(command, "ask", lambda *_: [Answer(directory="d", error="ValueError: no")])
    with pytest.raises(SystemExit) as end:
        cli.main(["verify", str(models / "right"), "--client=vllm"])
    assert end.value.code == 1
    assert "vllm         5              refuses: ValueError: no" in capsys.readouterr().out


def test_other_token_ids_are_a_difference(asked, models, monkeypatch, answers):
    right = answers["right"]
    for ids, said in (
        ([*right.ids, 3], "token ids of a text OTHERS"),
        ([1, *right.ids], "OTHERS: it begins with 1, and the reference does not"),
        (right.ids[1:], f"OTHERS: the reference begins with {right.ids[0]}, and it does not"),
    ):
        other = Answer(**{**vars(right), "ids": ids})
        monkeypatch.setattr(command, "ask", lambda *_, other=other: [other])
        result = verify(str(models / "right"))
        assert result.exit_code == 1 and said in str(result)


def test_wrong_pattern_of_windows_shows_where_the_probe_is_shorter_than_the_window(tmp_path):
    """As a client that gives the window to another block reads it: with the window of 4096 it looks the same."""
    config = MistralConfig(**{**tiny.config().to_dict(), "sliding_window": 4096})
    tiny.model(config).save_pretrained(tmp_path / "model")
    entries = json.loads((tmp_path / "model" / "config.json").read_text())
    shutil.copytree(tmp_path / "model", tmp_path / "unread")
    (tmp_path / "unread" / "config.json").write_text(json.dumps({**entries, "sliding_window": None}))
    probe = probe_of(read_config(str(tmp_path / "model")))
    assert unseen_window(str(tmp_path / "model")) == 4096
    assert unseen_window(str(tmp_path / "unread")) is None
    whole, unread = (expected_of(str(tmp_path / name), probe) for name in ("model", "unread"))
    assert torch.equal(torch.tensor(whole.logits), torch.tensor(unread.logits))
    with with_short_window(str(tmp_path / "model")) as short:
        assert not torch.allclose(
            torch.tensor(expected_of(short, probe).logits), torch.tensor(unread.logits), atol=1e-2
        )
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == entries


def test_client_that_differs_beyond_the_window_alone_is_told_so(
    asked, models, monkeypatch, answers, expected
):
    """Its second answer, on the directory as it is, is right; what it loaded first had the short window."""
    found = [answers["tensor"], answers["right"]]
    monkeypatch.setattr(command, "ask", lambda *_: [found.pop(0)])
    monkeypatch.setattr(command, "unseen_window", lambda _: 4096)
    monkeypatch.setattr(command, "expected_of", lambda *_, **__: expected)
    result = verify(str(models / "right"))
    assert result.exit_code == 1 and not found
    assert "sliding window of 4096 is shortened" in str(result)
    assert "DIFFERENT" in str(
        result
    ) and "with its window of 4096, which the probe does not reach: same" in str(result)


def refused_before_reading(monkeypatch):
    monkeypatch.setattr(command, "expected_of", lambda *_, **__: pytest.fail("weights were read"))


def test_what_is_no_model_is_refused_before_weights_are_read(tmp_path, models, monkeypatch, capsys):
    refused_before_reading(monkeypatch)
    with pytest.raises(VerifyError, match=r"directory='/nowhere' is no directory.*Correct the path"):
        verify("/nowhere")
    with pytest.raises(SourceError, match=r"directory=.* has no config.json"):
        verify(str(tmp_path))
    with pytest.raises(SourceError, match=r"against=.* has no config.json"):
        verify(str(models / "right"), against=str(tmp_path))
    shutil.copy(models / "right" / "config.json", tmp_path)
    with pytest.raises(SourceError, match=r"directory=.* lacks model.safetensors"):
        verify(str(tmp_path))
    with pytest.raises(SystemExit):
        cli.main(["verify", "--directory=/nowhere"])
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_interpreters_without_a_client_are_refused_before_weights_are_read(models, monkeypatch):
    refused_before_reading(monkeypatch)
    with pytest.raises(ClientError, match="python='/nowhere/python' is no Python interpreter"):
        verify(str(models / "right"), python="/nowhere/python")
    monkeypatch.setattr(command, "installed", lambda _: {})
    with pytest.raises(ClientError, match=r"python='python3' has no client.*Install one"):
        verify(str(models / "right"), python="python3")


def test_tokenizer_that_cannot_be_loaded_is_said_in_one_line(models):
    from shear_lit.evaluation.clients.reference import ids_of

    broken = shutil.copytree(models / "right", models / "broken")
    (broken / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="has no tokenizer that can be loaded"):
        ids_of(str(broken), "text")
