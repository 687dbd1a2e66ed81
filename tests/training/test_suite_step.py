"""Downstream tasks while a run goes on: asked of the model as it would be cut, by all ranks, and leaving no trace."""

import json

import pytest
import torch

from shear_lit import cli
from tests.evaluation.suites.questions import write_questions


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="the harness asks the questions: pip install shear-lit[eval]")
    folder = tmp_path_factory.mktemp("suite")
    write_questions(folder)
    return folder / "last-word.yaml"


def weights(run):
    (file,) = sorted((run / "checkpoints").glob("*.ckpt"))[-1:]
    return torch.load(file, weights_only=True)["state_dict"]


def test_suite_is_asked_of_the_cut_model_and_leaves_the_run_as_it_is(toy, suite, tmp_path):
    asked = [f"--evaluation.suite={suite}", "--evaluation.every_n_steps=3", "--evaluation.questions=3"]
    short = ["--trainer.max_steps=4", "--checkpoint.every_steps=4"]
    cli.main([*toy.arguments("prune", tmp_path / "asked"), *short, *asked])
    cli.main([*toy.arguments("prune", tmp_path / "plain"), *short])
    one, other = weights(tmp_path / "asked"), weights(tmp_path / "plain")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    found = sorted(path.name for path in (tmp_path / "asked" / "suite").iterdir())
    assert found == ["step=000003", "step=000004"]
    results = json.loads((tmp_path / "asked" / "suite" / "step=000004" / "results.json").read_text())
    target = 18_000  # the toy's cut is smaller than its source, which has 28,704 parameters
    assert (
        results["config"]["model_num_parameters"] < target
        and results["n-samples"]["last-word"]["effective"] == 3
    )
    rows = (tmp_path / "asked" / "metrics.csv").read_text()
    assert rows.count("suite/last-word/last-word") == 2
    assert "suite/" not in (tmp_path / "plain" / "metrics.csv").read_text()


def test_suite_that_is_none_is_refused_before_weights_are_read(toy, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([*toy.arguments("pretrain", tmp_path / "run"), "--evaluation.suite=quik"])
    assert left.value.code == 2 and "Did you mean quick" in capsys.readouterr().err
