"""The model card: what it is made of, under which licence, and what it does not claim."""

import json
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from shear_lit.reporting.model_card import model_card
from shear_lit.reporting.model_facts import ModelFacts, Selection
from shear_lit.reporting.recipe import facts_of, recipe_file
from shear_lit.theory.shape import ModelShape

FACTS = ModelFacts(
    name="small",
    source="organisation/large",
    lineage=(),
    source_fingerprint="f" * 64,
    licence={"license": "other", "license_name": "their-licence", "license_link": "LICENSE"},
    licence_files=("LICENSE", "NOTICE"),
    source_shape=ModelShape(layers=4, hidden=64, query_heads=4, kv_heads=2, intermediate=128),
    shape=ModelShape(layers=2, hidden=32, query_heads=2, kv_heads=1, intermediate=64),
    source_parameters=1000,
    parameters=250,
    dtype="bfloat16",
    step=3200,
    tokens=419430400,
    domains={"cc": {}, "wiki": {}},
    losses={"cc": 2.0, "wiki": 1.5},
    gated_difference=1.1e-6,
    selection=Selection(criterion="learned", meaning=""),
    earlier=(),
    gates="gates.shear",
    clients=("llama.cpp 1.0: reads it", "vLLM 2.0: refuses it"),
)
RANKED = replace(
    FACTS,
    step=0,
    tokens=0,
    domains={},
    losses={},
    selection=Selection(
        criterion="activation",
        meaning="the sizes of activations",
        data_fingerprint="d" * 64,
        sequences=40,
        tokens=81920,
    ),
)


def front_matter(card):
    _, entries, _ = card.split("---\n", 2)
    return yaml.safe_load(entries)


def test_front_matter_carries_the_licence_and_the_source():
    entries = front_matter(model_card(FACTS))
    assert entries["license_name"] == "their-licence" and entries["license"] == "other"
    assert entries["base_model"] == "organisation/large"
    assert entries["library_name"] == "transformers"


def test_local_source_is_no_base_model_of_the_hub():
    for source in ("/models/large", "./large", "runs/first/hf"):
        assert "base_model" not in front_matter(model_card(replace(FACTS, source=source)))


def test_continued_model_names_what_its_source_was_made_from():
    card = model_card(
        replace(
            FACTS,
            source="runs/first/hf",
            lineage=("organisation/large",),
            gated_difference=None,
            selection=None,
        )
    )
    assert front_matter(card)["base_model"] == "organisation/large"
    assert "`runs/first/hf` was itself made from `organisation/large`" in card


def test_card_states_shape_recipe_losses_and_figures():
    card = model_card(FACTS)
    for part in (
        "| query heads | 4 | 2 |",
        "| parameters | 1,000 | 250 |",
        "25.0%",
        "3,200 steps on 419,430,400 tokens",
        "cc, wiki",
        "| wiki | 1.5000 |",
        "1.1e-06",
        "their-licence",
        "LICENSE, NOTICE",
        "continue its pre-training",
    ):
        assert part in card, part


def test_card_of_a_model_that_was_not_cut_does_not_speak_of_gates():
    whole = replace(FACTS, gated_difference=None, selection=None, shape=FACTS.source_shape, parameters=1000)
    card = model_card(whole)
    assert "gates" not in card.partition("## Deviations")[0] and "only pruned" not in card
    assert "trained further" in card


def test_missing_licence_and_losses_are_said():
    card = model_card(replace(FACTS, licence={}, licence_files=(), losses={}))
    assert "states no licence" in card and "None were measured" in card
    assert "license" not in front_matter(card)


def test_card_of_a_ranked_cut_says_what_it_was_ranked_by_and_on_what():
    card = model_card(RANKED)
    for part in (
        "without learned gates",
        "`activation`",
        "81,920 tokens (40 sequences)",
        "`dddddddddddddddd`",
        "training: none",
    ):
        assert part in card, part
    assert "0 steps" not in card and "with learned gates" not in card


@pytest.mark.parametrize(
    ("criterion", "words"),
    [("weight", "rank highest by the sizes of weights"), ("random", "drawn by lot")],
)
def test_card_of_a_cut_without_text_speaks_of_none(criterion, words):
    selection = Selection(criterion=criterion, meaning="the sizes of weights")
    card = model_card(replace(RANKED, selection=selection))
    assert words in card and "measured on" not in card


def test_card_of_an_old_ranking_says_that_its_text_was_not_recorded():
    old = replace(RANKED.selection, sequences=None, tokens=None)
    assert "text (how much was not recorded)" in model_card(replace(RANKED, selection=old))


def test_continued_models_card_says_how_its_units_were_chosen():
    earlier = {
        "name": "pruned",
        "shape": {"layers": 2},
        "step": 40,
        "tokens": 20480,
        "selection": {"criterion": "learned", "meaning": ""},
    }
    before = {"name": "older", "shape": {"layers": 3}, "step": 5, "tokens": 10}  # of format 1
    whole = replace(FACTS, gated_difference=None, selection=None, earlier=(earlier, before))
    card = model_card(whole)
    assert "before that, `pruned`: layers=2; 40 steps on 20,480 tokens" in card
    assert "learned for 40 steps on 20,480 tokens" in card
    assert "before that, `older`: layers=3; 5 steps on 10 tokens" in card


def test_card_lists_programs_or_says_that_none_was_tried():
    card = model_card(FACTS)
    assert "- llama.cpp 1.0: reads it" in card and "- vLLM 2.0: refuses it" in card
    assert "None was tried" in model_card(replace(FACTS, clients=()))


def test_front_matter_is_what_the_hub_library_reads(tmp_path):
    (tmp_path / "README.md").write_text(model_card(FACTS))
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.license_name, data.base_model) == (
        "other",
        "their-licence",
        "organisation/large",
    )


def test_recipe_gives_the_card_again():
    recipe = json.loads(recipe_file(RANKED, axes=["layers"]))
    facts = facts_of(recipe, selection=RANKED.selection, gates="gates.shear", clients=RANKED.clients)
    assert model_card(facts) == model_card(RANKED)
    assert recipe["axes"] == ["layers"] and recipe["source_recipe"] is None
