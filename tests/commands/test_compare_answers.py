"""Tuned models on prompts with references: the figures are those of transformers, and a judge is asked once."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shear_lit import cli
from shear_lit.commands import comparing
from shear_lit.commands.compare import compare
from shear_lit.evaluation.chat_format import read_chat_format
from shear_lit.mistakes import Mistake
from tests.chat_models import write_chat_model
from tests.evaluation.answers.endpoint import endpoint, said

ASKED = ["what is a tree", "so <x> it is", "def f(x):\n    return x"]
REFERENCES = ["a tall plant", "yes, it is.", "it returns x"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("answers")
    for seed, name in enumerate(("first", "second")):
        write_chat_model(place / name, seed=seed)
    entries = [{"prompt": p, "reference": r} for p, r in zip(ASKED, REFERENCES, strict=True)]
    (place / "prompts.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return place


def compared(root, tmp_path, **options):
    models = [str(root / "first"), str(root / "second")]
    settings = dict(
        prompts=str(root / "prompts.jsonl"), max_new_tokens=6, speed=False, cache=str(tmp_path / "kept")
    )
    return compare(models, **{**settings, **options})


def by_hand(place):
    """Loss and tokens of each reference with what ends it, and each answer, by transformers alone."""
    tokenizer, network = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for prompt, reference in zip(ASKED, REFERENCES, strict=True):
        messages = [{"role": "user", "content": prompt}]
        told = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        own = [*tokenizer.encode(reference, add_special_tokens=False), end]
        ids = torch.tensor([told + own])
        with torch.inference_mode():
            chances = network(ids).logits[0, len(told) - 1 : -1].log_softmax(-1)
        loss = -float(chances[torch.arange(len(own)), own].double().sum())
        prompt_ids = torch.tensor([told])
        written = network.generate(
            prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            do_sample=False,
            max_new_tokens=6,
            eos_token_id=end,
            pad_token_id=0,
        )
        yield loss, len(own), tokenizer.decode(written[0, len(told) :], skip_special_tokens=True).strip()


def test_figures_are_those_of_transformers_and_nothing_is_measured_twice(root, tmp_path, monkeypatch):
    found = compared(root, tmp_path, output=str(tmp_path / "out"))
    for model in found.models:
        hand = list(by_hand(model.model))
        references = model.answers.references
        assert references[:, 1].tolist() == [tokens for _, tokens, _ in hand]
        assert references[:, 2].tolist() == [len(text.encode()) for text in REFERENCES]
        torch.testing.assert_close(
            references[:, 0].tolist(), [loss for loss, _, _ in hand], rtol=1e-5, atol=0
        )
        assert [answer.text for answer in model.answers.answers] == [text for *_, text in hand]
    first, second = (model.answers.references for model in found.models)
    row = found.differences()["second", "first"]["reference, loss"]
    assert row.value == pytest.approx((second[:, 0].sum() - first[:, 0].sum()) / first[:, 1].sum())
    assert "## Answers" in (tmp_path / "out" / "compare.md").read_text()
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["reference"] for line in lines] == REFERENCES
    monkeypatch.setattr(comparing, "read_model", lambda *_, **__: pytest.fail("measured twice"))
    assert str(compared(root, tmp_path)) == str(found)


def test_answers_are_told_apart_from_prompts_with_the_template_of_each_model(root, tmp_path):
    """One of another template and tokenizer is compared in bits per byte of the same references."""
    write_chat_model(tmp_path / "other", "zephyr", kind="pieces", seed=3)
    models = [str(root / "first"), str(tmp_path / "other")]
    found = compared(root, tmp_path)
    mixed = compare(
        models,
        prompts=str(root / "prompts.jsonl"),
        max_new_tokens=6,
        speed=False,
        cache=str(tmp_path / "kept"),
    )
    rows = mixed.differences()["other", "first"]
    first, other = (model.answers.references for model in mixed.models)
    assert first.tolist() == found.models[0].answers.references.tolist()
    gap = (other[:, 0].sum() - first[:, 0].sum()) / math.log(2) / first[:, 2].sum()
    assert rows["reference, bits per byte"].value == pytest.approx(gap)


def longer(body):
    """Prefers the longer answer, and the first one of two that are as long."""
    words = body["messages"][-1]["content"]
    first, second = words.partition("The first answer (A):\n\n")[2].split("\n\nThe second answer (B):\n\n")
    return "A" if len(first) >= len(second) else "B"


def test_judge_is_asked_in_both_orders_and_once(root, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with endpoint(lambda number, body: said(longer(body))) as server:
        options = dict(judge=server.url, judge_model="wise", output=str(tmp_path / "out"))
        found = compared(root, tmp_path, **options)
        asked = len(server.requests)
        assert str(compared(root, tmp_path, **options)) == str(found)
        assert len(server.requests) == asked
    first, second = (model.answers.answers for model in found.models)
    expected = [
        0.5 if len(mine.text) == len(theirs.text) else float(len(mine.text) > len(theirs.text))
        for mine, theirs in zip(second, first, strict=True)
    ]
    different = sum(mine.text != theirs.text for mine, theirs in zip(second, first, strict=True))
    assert asked == 2 * different > 0
    (rate,) = found.win_rates
    assert (rate.model, rate.against) == ("second", "first")
    assert [verdict.value for verdict in rate.verdicts] == expected
    assert rate.rate.value == pytest.approx(sum(expected) / len(expected))
    assert "## Win rate" in str(found) and "wise" in str(found)
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert stored["win_rates"][0]["rate"]["value"] == pytest.approx(rate.rate.value)
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 3


def test_judge_that_fails_leaves_what_it_has_said(root, tmp_path):
    """Each pair is kept as it is judged: of three, two were asked before the endpoint refused."""
    with endpoint(lambda number, body: said("C") if number < 2 else (400, {}, b"no")) as server:
        options = dict(judge=server.url, judge_model="wise")
        with pytest.raises(Mistake, match="refuses the question"):
            compared(root, tmp_path, **options)
        asked = len(server.requests)
        with pytest.raises(Mistake, match="refuses the question"):
            compared(root, tmp_path, **options)
        assert (asked, len(server.requests)) == (3, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"judge": "http://127.0.0.1:9"}, "judge_model"),
        ({"judge_model": "wise"}, "a judge is an address"),
        ({"prompts": None, "max_new_tokens": 7}, "max_new_tokens=7 has no effect without prompts"),
        ({"judge_key_variable": "MINE"}, "judge_key_variable=MINE has no effect without judge"),
        ({"prompts": "/nowhere"}, "is no file"),
        ({"max_new_tokens": 600}, "was made for 512"),
    ],
)
def test_mistakes_are_one_line_before_any_weight_is_read(root, tmp_path, monkeypatch, options, words):
    monkeypatch.setattr(comparing, "read_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(Mistake, match=words) as found:
        compared(root, tmp_path, **options)
    assert "\n" not in str(found.value)


def test_model_without_a_template_is_named(root, tmp_path, capsys):
    write_chat_model(tmp_path / "silent", template=None)
    words = ["compare", str(root / "first"), str(tmp_path / "silent"), f"--prompts={root / 'prompts.jsonl'}"]
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "comes with no chat template" in capsys.readouterr().err
    assert read_chat_format(str(root / "first")).ends
