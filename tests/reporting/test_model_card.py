"""The model card: what it is made of, under which licence, and what it does not claim."""

from dataclasses import replace

import yaml

from shear_lit.reporting.model_card import ModelFacts, model_card
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
        replace(FACTS, source="runs/first/hf", lineage=("organisation/large",), gated_difference=None)
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
    card = model_card(replace(FACTS, gated_difference=None, shape=FACTS.source_shape, parameters=1000))
    assert "gates.safetensors" not in card and "only pruned" not in card
    assert "trained further" in card


def test_missing_licence_and_losses_are_said():
    card = model_card(replace(FACTS, licence={}, licence_files=(), losses={}))
    assert "states no licence" in card and "No validation losses" in card
    assert "license" not in front_matter(card)
