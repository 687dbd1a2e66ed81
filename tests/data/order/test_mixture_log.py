"""The log of a mixture: what a run did, what a later one may begin with, and nothing that is not that."""

import json
import math

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture_log import (
    MixtureChange,
    MixtureLog,
    read_mixture_log,
    write_mixture_log,
)


def change(step, a, losses=None):
    return MixtureChange(step=step, weights={"a": a, "b": 1 - a}, losses=losses)


def log(*changes):
    return MixtureLog(domains=("a", "b"), global_batch=8, sequence_length=4, updates=changes)


def test_log_reads_as_it_was_written_by_file_and_by_run(tmp_path):
    written = log(change(0, 0.1), change(50, 1 / 3, {"a": 2.5, "b": 0.1}))
    write_mixture_log(tmp_path / "run" / "mixture.json", written)
    assert read_mixture_log(tmp_path / "run" / "mixture.json") == written
    assert read_mixture_log(tmp_path / "run") == written and written.final_weights["a"] == 1 / 3
    content = json.loads((tmp_path / "run" / "mixture.json").read_text())
    assert content["format"] == 1 and content["updates"][0]["losses"] is None
    assert content["global_batch"] == 8 and content["sequence_length"] == 4
    assert content["updates"][1] == {
        "step": 50,
        "weights": {"a": 1 / 3, "b": 1 - 1 / 3},
        "losses": {"a": 2.5, "b": 0.1},
    }


def test_domains_within_the_error_of_their_reference_are_written_down(tmp_path):
    doubtful = MixtureChange(
        step=9, weights={"a": 0.5, "b": 0.5}, losses={"a": 2.5, "b": 0.1}, within_error=("b",)
    )
    write_mixture_log(tmp_path / "mixture.json", log(doubtful))
    assert read_mixture_log(tmp_path).updates == (doubtful,)


def test_loss_that_was_not_measured_is_null_on_disk(tmp_path):
    write_mixture_log(tmp_path / "mixture.json", log(change(0, 0.5, {"a": math.nan, "b": 1.0})))
    assert "NaN" not in (tmp_path / "mixture.json").read_text()
    losses = read_mixture_log(tmp_path).updates[0].losses
    assert math.isnan(losses["a"]) and losses["b"] == 1.0


def test_a_change_takes_the_place_of_what_was_written_of_its_step_and_later():
    before = log(change(0, 0.1), change(50, 0.2), change(100, 0.3))
    assert before.followed_by(change(50, 0.4)) == log(change(0, 0.1), change(50, 0.4))
    assert before.followed_by(change(150, 0.4)).up_to(100, 100) == before


def test_a_global_batch_that_changed_stays_written_whatever_becomes_of_its_step():
    wider = MixtureChange(step=6, weights={"a": 0.2, "b": 0.8}, losses=None, global_batch=16)
    written = log(change(0, 0.1), change(4, 0.2), wider, change(8, 0.3))
    assert [each.step for each in written.up_to(4, 7).updates] == [0, 4, 6]
    assert [each.step for each in written.up_to(4, 5).updates] == [0, 4]
    assert written.up_to(0, 5).present_batch == 8 and written.present_batch == 16
    moved = written.followed_by(change(6, 0.4, {"a": 1.0, "b": 2.0}))
    assert moved.updates[-1].global_batch == 16 and moved.updates[-1].weights["a"] == 0.4


def content(**changes):
    update = {"step": 4, "weights": {"a": 1}, "losses": None}
    whole = {"format": 1, "domains": ["a"], "global_batch": 1, "sequence_length": 1, "updates": [update]}
    return json.dumps(whole | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "no mixture.json"),
        (content(format=2), "format 2, this version reads 1"),
        (content(updates=[]), "must be there and rise"),
        (content(updates=[{"step": 0, "weights": {"a": 0.5}, "losses": None}]), "not one mixture"),
        (content(updates=[{"step": 0, "weights": {"b": 1}, "losses": None}]), "not one mixture"),
        (content(updates=2 * [{"step": 4, "weights": {"a": 1}, "losses": None}]), "must be there and rise"),
        (content(domains=["a\nb"]), "no names of domains"),
        (content(global_batch=True), "global_batch is True: a whole number"),
        (content(updates=[{"step": 0, "weights": {"a": float("nan")}, "losses": None}]), "a finite number"),
    ],
)  # fmt: skip
def test_what_is_no_log_is_refused_with_the_key(tmp_path, content, message):
    (tmp_path / "mixture.json").write_text(content)
    with pytest.raises(DataError, match=rf"data\.mixture\.proportions=.*{message}"):
        read_mixture_log(tmp_path)


def test_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.mixture\.proportions='.*nowhere' cannot be read"):
        read_mixture_log(tmp_path / "nowhere")
