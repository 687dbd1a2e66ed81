"""Exports of models that one talks to: the template stays, and generation stops where a turn ends."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shear_lit.commands import verification
from shear_lit.commands.export import export
from shear_lit.commands.verification import verify_model
from shear_lit.data.chat.templates import find_template
from shear_lit.evaluation.chat_format import read_chat_format
from shear_lit.evaluation.clients.asking import Answer
from shear_lit.evaluation.clients.reference import expected_of
from shear_lit.models.huggingface import read_config
from tests import tiny
from tests.chat_models import write_chat_model
from tests.data.chat.subjects import text_tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model that says in its settings to stop at </s> alone, though its turns end with <|im_end|>."""
    return write_chat_model(tmp_path_factory.mktemp("source") / "source", ends=[2])


def exported(source, directory, **facts):
    network = AutoModelForCausalLM.from_pretrained(source)
    known = tiny.facts(read_config(str(source)), source, None, **facts)
    path = tiny.write_checkpoint(directory / "step=000007.ckpt", tiny.checkpoint(network, known, {}))
    export(checkpoint=str(path), output=str(directory / "hf"))
    return directory / "hf"


def stops_at(directory):
    return json.loads((directory / "generation_config.json").read_text())["eos_token_id"]


def written_when_made_to_end(directory, token):
    """What a model writes that is made to write ``token`` at once, with the settings that come with it."""
    network = AutoModelForCausalLM.from_pretrained(directory)
    prompt = torch.tensor([[5, 6, 7]])
    found = network.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        sequence_bias={(token,): 1e6},
        do_sample=False,
        max_new_tokens=4,
        pad_token_id=0,
    )
    return found[0, 3:].tolist()


def test_template_stays_byte_for_byte_and_generation_stops_where_a_turn_ends(source, tmp_path):
    directory = exported(source, tmp_path)
    (end,) = read_chat_format(str(directory)).ends
    template = "chat_template.jinja"
    assert (directory / template).read_bytes() == (source / template).read_bytes()
    assert stops_at(directory) == [2, end] and stops_at(source) == [2]
    assert written_when_made_to_end(directory, end) == [end]
    assert written_when_made_to_end(source, end) == [end] * 4


def test_settings_that_know_the_end_stay_as_they_are(tmp_path):
    source = write_chat_model(tmp_path / "source")
    directory = exported(source, tmp_path)
    assert (directory / "generation_config.json").read_bytes() == (
        source / "generation_config.json"
    ).read_bytes()


def test_template_that_a_model_was_tuned_by_takes_the_place_of_its_source(source, tmp_path):
    """By a run on conversations that another template told; the source may have none."""
    zephyr = find_template(text_tokenizer("bytes"), "zephyr").source
    silent = write_chat_model(tmp_path / "silent", template=None)
    for number, origin in enumerate((source, silent)):
        place = tmp_path / str(number)
        place.mkdir()
        directory = exported(origin, place, chat_template=zephyr)
        assert (directory / "chat_template.jinja").read_text() == zephyr
        assert AutoTokenizer.from_pretrained(directory).chat_template == zephyr
        assert "chat_template" not in json.loads((directory / "tokenizer_config.json").read_text())
        assert stops_at(directory) in (2, [2])  # </s> ends its turns


@pytest.mark.parametrize(("stops", "code"), [([6], 0), ([], 1), (None, 0)])
def test_client_that_talks_on_is_a_difference(source, monkeypatch, stops, code):
    asked = []

    def answer(client, python, jobs):
        asked.extend(jobs)
        probe = verification.probe_of(read_config(str(source)))
        expected = expected_of(str(source), probe, text=jobs[0].text)
        np.save(jobs[0].logits, expected.logits)
        found = None if stops is None else list(jobs[0].ends) if stops else []
        return [
            Answer(
                directory=str(source),
                version="1",
                logits=jobs[0].logits,
                greedy=expected.greedy,
                ids=expected.ids,
                stops=found,
            )
        ]

    monkeypatch.setattr(verification, "ask", answer)
    monkeypatch.setattr(verification, "installed", lambda _: {"transformers": ("1", None)})
    result = verify_model(str(source), client=None, python=None, against=None)
    (end,) = asked[0].ends
    assert result.exit_code == code
    words = {0: "same: ", 1: f"DOES NOT STOP behind token {end}, which ends a turn"}[code]
    assert words in str(result) and ("stops where a turn ends" in str(result)) == bool(stops)
