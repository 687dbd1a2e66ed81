"""One order of sequences for every number of ranks and workers, after a stop anywhere, with domains that run out."""

import json
import logging
import random
from itertools import product

import pytest
import torch

from shear_lit.data.errors import DataError
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.chunk_reading import LocalChunks
from shear_lit.data.serving.loader import MixtureLoader

SIZES = {"short": [5, 4], "endless": [7, 7, 7], "other": [30, 10], "one": [1]}
STEPS, EVERY, GLOBAL = 12, 3, 16
WORLDS, WORKERS = (1, 2, 4, 8), (0, 1, 2)
CAPS = {"short": 2, "other": 0.9}


class Numbers:
    """A store that reads nothing: the tokens of a sequence are its domain and its number."""

    domains = tuple(SIZES)
    masked = False
    chunks = LocalChunks(".")

    def read(self, keys, *, documents_apart):
        return {
            "tokens": torch.tensor(keys),
            "domain": torch.tensor([domain for domain, _ in keys]),
            "micro_batch": 0,
        }


def loader(rank=0, world=1, workers=0, micro=1, schedule=MixtureSchedule):
    return MixtureLoader(
        Numbers(),
        schedule(SIZES, global_batch=GLOBAL, seed=5, max_epochs=CAPS),
        (0.3, 0.3, 0.3, 0.1),
        steps=STEPS,
        update_every_steps=EVERY,
        micro_batch=micro,
        rank=rank,
        world_size=world,
        workers=workers,
    )


def mixture_after(step):
    """How the weights move at each boundary, as a validation would move them."""
    chance = random.Random(step)
    weights = [chance.uniform(0.1, 1) for _ in SIZES]
    return [weight / sum(weights) for weight in weights]


def read(each, micro_batches=None):
    """What a rank reads: (step, micro-batch, domain, sequence) of each sequence, and the state where it stops."""
    seen, batches = [], iter(each)
    while micro_batches is None or micro_batches > 0:
        if each.at_boundary and 0 < each.state.batch < STEPS:
            each.set_weights(mixture_after(each.state.batch))
        batch = next(batches, None)
        if batch is None:
            break
        step = each.state.batch - (each.position == 0)
        assert batch["tokens"][:, 0].tolist() == batch["domain"].tolist()
        seen += [(step, batch["micro_batch"], *row) for row in batch["tokens"].tolist()]
        micro_batches = None if micro_batches is None else micro_batches - 1
    return seen, json.loads(json.dumps(each.state_dict()))


def read_by_all(world, workers, state=None, **changes):
    """What all ranks together read from ``state`` to the end, in the order of a single process."""
    together = []
    for rank in range(world):
        each = loader(rank, world, workers, **changes)
        if state is not None:
            each.load_state_dict(state)
        together += read(each)[0]
    return sorted(together, key=lambda item: item[:2])


@pytest.fixture(scope="module")
def expected():
    order, state = read(loader())
    assert state["exhausted"] == ["short", "other"] and state["drawn"][1] > 3 * 21
    return order


@pytest.mark.parametrize("world", WORLDS)
def test_order_is_the_same_for_any_number_of_ranks(expected, world):
    assert read_by_all(world, 0) == expected


def differences(expected, stops, workers=(0,), **changes):
    """Stops at random micro-batches of random ranks and workers that others did not go on from as they should."""
    chance, found = random.Random(7), []
    for _ in range(stops):
        before, after = ((chance.choice(WORLDS), chance.choice(workers)) for _ in range(2))
        # Where ranks stop, all have had as many micro-batches; where others go on, that divides among them too.
        unit = max(before[0], after[0])
        position = chance.randrange(0, STEPS * GLOBAL // unit) * unit
        rank = chance.randrange(before[0])
        seen, state = read(loader(rank, *before, **changes), position // before[0])
        rest = read_by_all(*after, state=state, **changes)
        of_rank = [item for item in expected[:position] if item[1] % before[0] == rank]
        if (seen, rest) != (of_rank, expected[position:]):
            found.append((before, after, position))
    return found


def test_a_hundred_stops_anywhere_are_resumed_exactly_on_other_ranks(expected):
    assert differences(expected, 100) == []


def test_stops_with_workers_are_resumed_exactly(expected):
    """A sample: benchmarks/mixture_loader.py --orders goes through all of them, on files."""
    assert differences(expected, 3, workers=(1, 2)) == []


class ForgetsTheCarry(MixtureSchedule):
    """The broken twin."""

    def restored(self, saved):
        return super().restored({**saved, "carry": [0] * len(SIZES)})


def test_a_resume_that_forgets_the_carry_would_be_seen(expected):
    assert len(differences(expected, 10, schedule=ForgetsTheCarry)) > 4


def test_order_of_sequences_goes_on_with_another_micro_batch_and_other_ranks(expected):
    for (before, micro), (after, other) in product([(1, 2), (2, 4), (4, 1)], [(1, 8), (2, 2), (8, 1)]):
        position = 3 * GLOBAL + 8
        _, state = read(loader(0, before, micro=micro), position // (before * micro))
        rest = read_by_all(after, 0, state=state, micro=other)
        assert [item[2:] for item in rest] == [item[2:] for item in expected[position:]]


def test_another_global_batch_begins_only_between_two(caplog):
    def wider(sizes, **settings):
        return MixtureSchedule(sizes, **{**settings, "global_batch": 2 * GLOBAL})

    with caplog.at_level(logging.INFO):
        loader(schedule=wider).load_state_dict(read(loader(), GLOBAL)[1])
    assert f"data.global_batch is {2 * GLOBAL} from step 1 on, and was {GLOBAL}" in caplog.text
    with pytest.raises(
        DataError, match=rf"data\.global_batch={2 * GLOBAL}: the checkpoint stands 4 sequences"
    ):
        loader(schedule=wider).load_state_dict(read(loader(), 4)[1])


def test_a_domain_that_runs_out_is_said_once_by_one_rank(caplog):
    with caplog.at_level(logging.INFO):
        read_by_all(2, 0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "no more is drawn from short (read 2.00 times), from step" in said[0] and "short 0.0000" in said[0]
    assert "no more is drawn from other (read 0.90 times)" in said[1]


def test_a_cap_that_was_raised_too_late_is_said_at_the_resume(caplog):
    _, state = read(loader())
    each = loader(
        schedule=lambda sizes, **settings: MixtureSchedule(
            sizes, **{**settings, "max_epochs": {**CAPS, "short": 10}}
        )
    )
    each.load_state_dict(state)
    assert "would let short be read again" in caplog.records[-1].getMessage()
