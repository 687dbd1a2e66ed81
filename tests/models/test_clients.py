"""Who reads what: the table that was measured is whole, and what is said of a shape follows from it."""

import json
from dataclasses import replace
from importlib.resources import files

import pytest

from shear_lit.models import clients
from shear_lit.models.clients import Conditions, Reading, Verdict, Written, conditions_of, lines, warning
from shear_lit.models.registry import FAMILIES, family_of
from shear_lit.theory.shape import ModelShape
from tests.toy_families import FORMS

LLAMA = Conditions(family="llama", rope="llama3", width="equal", period="alike")
GEMMA = Conditions(family="gemma3_text", rope="default", width="equal", period="kept")


def reading(conditions, client, export, source=Verdict.READS):
    return Reading(conditions=conditions, client=client, version="1", source=source, export=export)


@pytest.fixture
def table(monkeypatch):
    """CTranslate2 takes equal widths only, and mistral's other ones; llama.cpp takes kept periods only."""
    other = replace(LLAMA, width="other")
    rows = (
        reading(LLAMA, "ctranslate2", Verdict.READS),
        reading(other, "ctranslate2", Verdict.REFUSES),
        reading(other, "optimum", Verdict.REFUSES),
        reading(replace(other, family="mistral"), "ctranslate2", Verdict.READS),
        reading(LLAMA, "optimum", Verdict.READS),
        reading(GEMMA, "llama.cpp", Verdict.READS),
        reading(replace(GEMMA, period="broken"), "llama.cpp", Verdict.WRONG),
        reading(replace(GEMMA, period="broken"), "old", Verdict.WRONG, Verdict.WRONG),
    )
    monkeypatch.setattr(clients, "_table", lambda: rows)


def config_of(family):
    return next(form for form in FORMS if form.family == family and form.grouped).config()


def written(config, *, kept=True, **changes):
    shape = family_of(config).shape.to_dict() | changes
    return Written(config=config, shape=ModelShape(**shape), period_kept=kept)


def test_shape_that_a_program_refuses_is_said_with_one_that_all_take(table):
    config = config_of("llama")
    assert warning(written(config, hidden=32, query_heads=3)) == (
        "target.hidden=32 is not query_heads=3 x 8, the head size: refused by ctranslate2 1 and optimum 1, although "
        "the source is read. Use hidden=24 for a model that all of them read."
    )
    assert warning(written(config, hidden=24, query_heads=3)) is None


def test_head_count_that_fits_is_named_where_it_is_whole(table):
    said = warning(written(config_of("llama"), hidden=24, query_heads=6, kv_heads=3))
    assert "hidden=48" not in said and "Use query_heads=3 for" in said


def test_period_that_is_not_kept_is_said_with_the_option_that_keeps_it(table):
    config = config_of("gemma3_text")
    shape = dict(hidden=48, query_heads=6)
    plain = replace(
        written(config, kept=False, **shape),
        config=config.__class__(**{**config.to_dict(), "hidden_size": 48, "rope_parameters": None}),
    )
    said = warning(plain)
    assert "the blocks' period of 6 is not kept: read without a word as another model by llama.cpp 1" in said
    assert "keep_layer_period=true" in said and "old" not in said  # which reads no such source either
    assert warning(replace(plain, period_kept=True)) is None


def test_width_is_said_for_a_rotary_kind_that_was_not_tried(monkeypatch):
    config = config_of("llama")
    plain = Conditions(family="llama", rope="default", width="other", period="alike")
    monkeypatch.setattr(clients, "_table", lambda: (reading(plain, "optimum", Verdict.REFUSES),))
    assert "refused by optimum 1" in warning(written(config, hidden=32, query_heads=3))
    assert lines(config) == ()


def test_nothing_is_said_where_nothing_was_tried(monkeypatch):
    monkeypatch.setattr(clients, "_table", lambda: ())
    assert warning(written(config_of("llama"), hidden=32, query_heads=3)) is None
    assert lines(config_of("llama")) == ()


def test_card_says_what_each_program_does(monkeypatch):
    config = config_of("llama")
    now = conditions_of(config)
    rows = (
        reading(now, "a", Verdict.READS),
        reading(now, "b", Verdict.WRONG),
        reading(now, "c", Verdict.REFUSES, Verdict.REFUSES),
        reading(replace(now, width="equal"), "d", Verdict.READS),
    )
    monkeypatch.setattr(clients, "_table", lambda: rows)
    assert lines(config) == (
        "a 1: reads it",
        "b 1: computes something else",
        "c 1: refuses it (it refuses such sources)",
    )


def test_measured_table_is_read_and_covers_every_family_and_required_program():
    rows = json.loads(files("shear_lit.models").joinpath("clients.json").read_text(encoding="utf-8"))
    found = clients._table()
    assert len(rows) >= len(found) > 0
    assert {each.conditions.family for each in found} == set(FAMILIES)
    required = {"transformers", "transformers-4.57", "vllm", "llama.cpp"}
    for family in FAMILIES:
        assert required <= {each.client for each in found if each.conditions.family == family}, family


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox"])
def test_base_that_a_program_does_not_read_is_another_condition(family):
    """llama.cpp's converter writes no base for these families."""
    form = next(form for form in FORMS if form.family == family)
    part = {"partial_rotary_factor": 0.5} if family == "gpt_neox" else {}
    heads = {"hidden_size": 48, "num_attention_heads": 6} if family == "gemma2" else {}
    said = {}
    for base in (500.0, 7e5, 10000.0):
        rope = {"rope_type": "default", "rope_theta": base, **part}
        config = form.config(rope_parameters=rope, layer_types=None, **heads)
        said[base] = next(line for line in lines(config) if line.startswith("llama.cpp"))
    assert said[10000.0].endswith("reads it")
    assert said[500.0] == said[7e5] != said[10000.0] and "of such sources" in said[500.0]


def test_no_program_is_known_to_read_an_export_wrong_where_the_period_is_kept():
    """What is silently wrong is said by name, and it is this alone."""
    wrong = {each.conditions for each in clients._table() if each.lost and each.export is Verdict.WRONG}
    assert {each.period for each in wrong} <= {"broken"}
