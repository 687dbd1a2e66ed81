"""Runs under every rule of the mixture, stopped anywhere and gone on with by other ranks, from other directories."""

import json
import math
import os
import random

import pytest

from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.theory import online_mixture
from shear_lit.theory.mixture import MixtureRule
from shear_lit.theory.online_mixture import fitted_law
from tests.data.serving.test_directories import DEALS, dealt, together  # noqa: F401 (a fixture)

STOPS = 100 if os.environ.get("SHEAR_LIT_CORPUS") == "all" else 3
WORLDS, STEPS, GLOBAL = (1, 2, 4, 8), 12, 8
NAMES = ("a", "b", "c")


def losses_at(step):
    """Of a run that learns: the same on every rank."""
    return {name: 1.5 + (1 + i) * math.exp(-step / (4 + 3 * i)) for i, name in enumerate(NAMES)}


@pytest.fixture(autouse=True)
def fitted_once(monkeypatch):
    """Laws are fitted anew by every rank after every stop: those of the same points are taken from the first fit."""
    known = {}

    def fitted(sequences, losses):
        key = sequences.tobytes(), losses.tobytes()
        if key not in known:
            known[key] = fitted_law(sequences, losses)
        return known[key]

    monkeypatch.setattr(online_mixture, "fitted_law", fitted)


def module(place, rule):
    references = {"references": {"a": 2.0, "b": 1.0, "c": 1.5}} if rule.follows == "validation" else {}
    mixture = MixtureSettings(
        proportions={"a": 0.25, "b": 0.5, "c": 0.25},
        rule=rule,
        update_every_steps=1 if rule is MixtureRule.ADO else 2,  # ten points make a law
        max_epochs={"a": 1.2},
        **references,
    )
    sizes = {"validation_sequences": 6, "validation_micro_batch": 3}
    return DomainData(place, mixture, global_batch=GLOBAL, micro_batch=1, **sizes)


def read(data, *, batches=None, **ranks):
    """What a rank is handed: (step, micro-batch, tokens); and its state after so many."""
    seen, loader = [], data.training_loader(steps=STEPS, **ranks)
    left = iter(loader)
    while batches is None or len(seen) < batches:
        if data.update_due and 0 < loader.state.batch < STEPS:
            data.update_mixture(losses_at(loader.state.batch))
        if (batch := next(left, None)) is None:
            break
        step = loader.state.batch - (loader.position == 0)
        seen.append((step, batch["micro_batch"], *batch["tokens"].flatten().tolist()))
    return seen, json.loads(json.dumps(data.state_dict()))


def read_by_all(place, rule, world, state=None):
    found = []
    for rank in range(world):
        data = module(place, rule)
        if state is not None:
            data.load_state_dict(state)
        found += read(data, rank=rank, world_size=world)[0]
    return sorted(found)


@pytest.mark.timeout(3600 if STOPS == 100 else 300)
@pytest.mark.parametrize("rule", list(MixtureRule), ids=str)
def test_stops_anywhere_are_resumed_exactly_on_other_ranks_and_directories(together, tmp_path, rule):  # noqa: F811
    places = [str(together), *(dealt(together, tmp_path / str(i), deal) for i, deal in enumerate(DEALS))]
    expected = read_by_all(places[0], rule, 1)
    assert len(expected) == STEPS * GLOBAL
    weights = [read(module(places[0], rule), batches=n)[1]["loader"]["weights"] for n in (1, 90)]
    ratios = [b / c for _, b, c in weights]  # which a domain that runs out leaves as it is
    assert (abs(ratios[1] / ratios[0] - 1) < 1e-9) == (rule is MixtureRule.STATIC)
    chance = random.Random(11)
    for _ in range(STOPS):
        before, after = chance.choice(WORLDS), chance.choice(WORLDS)
        first, then = chance.choice(places), chance.choice(places)
        unit = max(before, after)
        position, rank = chance.randrange(0, STEPS * GLOBAL // unit) * unit, chance.randrange(before)
        seen, state = read(module(first, rule), batches=position // before, rank=rank, world_size=before)
        assert seen == [item for item in expected[:position] if item[1] % before == rank]
        rest = read_by_all(then, rule, after, state)
        assert rest == expected[position:], (before, after, position)
