"""Micro-batches: one order for any workers, ranks and resume; validation dealt evenly."""

import copy
import json
import pickle

import pytest
import torch

from shear_lit.data.errors import DataError
from shear_lit.data.order.permutation import sample
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.serving.loader import MixtureLoader, accumulation_of
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore

STEPS, EVERY, GLOBAL, MICRO = 12, 3, 8, 2
WEIGHTS = (0.5, 0.3, 0.2)


def loader(directory, *, rank=0, world=1, workers=0, micro=MICRO, **changes):
    store = SequenceStore(directory, "prune")
    schedule = MixtureSchedule(store.chunk_sizes, **({"global_batch": GLOBAL, "seed": 5} | changes))
    return MixtureLoader(
        store,
        schedule,
        WEIGHTS,
        steps=STEPS,
        update_every_steps=EVERY,
        micro_batch=micro,
        rank=rank,
        world_size=world,
        workers=workers,
    )


def mixture_after(step):
    """A mixture that moves at each boundary, as a validation would move it."""
    return (0.2 + 0.03 * step, 0.3, 0.5 - 0.03 * step)


def run(loader, limit=None):
    """Everything a loader gives: (step, micro-batch, domain, sequence), with updates at the boundaries."""
    seen = []
    for count, batch in enumerate(loader, start=1):
        step = loader.state.batch - (loader.position == 0)
        for tokens, domain in zip(batch["tokens"].tolist(), batch["domain"].tolist(), strict=True):
            assert tokens[0] == domain
            seen.append((step, batch["micro_batch"], domain, tokens[1]))
        if count == limit:
            break
        if loader.at_boundary and loader.state.batch < STEPS:
            loader.set_weights(mixture_after(loader.state.batch))
    return seen


@pytest.fixture(scope="module")
def expected(prepared):
    return run(loader(prepared))


def test_a_run_gives_whole_global_batches_and_moves_with_the_weights(expected):
    assert len(expected) == STEPS * GLOBAL
    first = [domain for step, _, domain, _ in expected if step == 0]
    last = [domain for step, _, domain, _ in expected if step == STEPS - 1]
    assert first.count(0) == 4 and last.count(0) in (3, 4) and last.count(2) in (1, 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_order_is_the_same_with_workers(prepared, expected, workers):
    assert run(loader(prepared, workers=workers)) == expected


@pytest.mark.parametrize("largest", [65_535, 65_536, 2**31])
def test_workers_deliver_tokens_of_any_vocabulary(monkeypatch, prepared, largest):
    read = SequenceStore.read

    def read_large(store, keys, **how):
        batch = read(store, keys, **how)
        batch["tokens"][:, -1] = largest
        return batch

    monkeypatch.setattr(SequenceStore, "read", read_large)
    with_worker, without = next(iter(loader(prepared, workers=1))), next(iter(loader(prepared)))
    assert with_worker["tokens"].dtype == torch.int64 and with_worker["tokens"][0, -1] == largest
    assert torch.equal(with_worker["tokens"], without["tokens"])
    assert torch.equal(with_worker["domain"], without["domain"])


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("workers", [0, 1])
def test_order_is_the_same_for_any_number_of_ranks(prepared, expected, world, workers):
    parts = [run(loader(prepared, rank=rank, world=world, workers=workers)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    together = sorted((item for part in parts for item in part), key=lambda item: item[:2])
    assert together == expected


def test_order_of_sequences_is_the_same_for_any_micro_batch(prepared, expected):
    for micro in (1, 4, 8):
        assert [item[2:] for item in run(loader(prepared, micro=micro))] == [item[2:] for item in expected]


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_any_micro_batch_gives_the_rest(prepared, expected, workers):
    """Stops in the middle of a batch and at boundaries, before the mixture was updated there."""
    for stop in range(0, STEPS * GLOBAL // MICRO) if not workers else (5, 12):
        first = loader(prepared)
        seen = run(first, limit=stop) if stop else []
        saved = json.loads(json.dumps(first.state_dict()))
        again = loader(prepared, workers=workers)
        again.load_state_dict(saved)
        if again.at_boundary and again.state.batch:
            again.set_weights(mixture_after(again.state.batch))
        assert seen + run(again) == expected


def test_resume_on_other_ranks_gives_the_rest(prepared, expected):
    first = loader(prepared)
    seen = run(first, limit=5 * GLOBAL // MICRO)
    parts = []
    for rank in range(2):
        again = loader(prepared, rank=rank, world=2)
        again.load_state_dict(first.state_dict())
        parts += run(again)
    assert seen + sorted(parts, key=lambda item: item[:2]) == expected


def test_resume_inside_a_batch_with_another_micro_batch_is_refused(prepared):
    first = loader(prepared)
    run(first, limit=1)
    with pytest.raises(DataError, match=r"data\.micro_batch=4"):
        loader(prepared, micro=4).load_state_dict(first.state_dict())


def test_state_does_not_depend_on_the_rank(prepared):
    states = []
    for rank in range(2):
        each = loader(prepared, rank=rank, world=2)
        run(each, limit=7)
        states.append(each.state_dict())
    assert states[0] == states[1]


def test_state_is_advanced_before_a_batch_is_handed_out(prepared):
    """A checkpoint written while a batch is trained on must not serve that batch again."""
    each = loader(prepared)
    batches = iter(each)
    next(batches)
    assert each.position == MICRO
    for _ in range(GLOBAL // MICRO - 1):
        next(batches)
    assert (each.state.batch, each.position) == (1, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_planned_past_a_boundary(prepared, workers):
    """A twin that never updates agrees up to the boundary and differs after it."""
    first, second = loader(prepared, workers=workers), loader(prepared, workers=workers)
    per_segment = EVERY * GLOBAL // MICRO
    moved, still = iter(first), iter(second)
    for _ in range(per_segment):
        assert torch.equal(next(moved)["tokens"], next(still)["tokens"])
    first.set_weights((0.0, 0.0, 1.0))
    after = [next(moved)["domain"] for _ in range(GLOBAL // MICRO)]
    assert (torch.cat(after) == 2).all()
    assert (torch.cat([next(still)["domain"] for _ in range(GLOBAL // MICRO)]) != 2).any()


def test_weights_cannot_change_inside_a_segment(prepared):
    each = loader(prepared)
    run(each, limit=GLOBAL // MICRO)
    with pytest.raises(AssertionError, match="boundary"):
        each.set_weights(WEIGHTS)


def test_iterating_again_goes_on_where_the_state_stands(prepared, expected):
    each = loader(prepared, workers=1)
    assert run(each, limit=5) + run(each) == expected


def test_length_is_that_of_the_whole_run(prepared):
    each = loader(prepared, world=2)
    run(each, limit=3)
    assert len(each) == STEPS * GLOBAL // (MICRO * 2)


def test_the_global_random_numbers_are_left_alone(prepared):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run(loader(prepared))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_global_batch_that_cannot_be_dealt_is_refused():
    assert accumulation_of(32, 4, 2) == 4
    with pytest.raises(DataError, match=r"data\.global_batch=32.*multiple of 12"):
        accumulation_of(32, 4, 3)


def test_a_store_travels_to_a_worker_without_its_maps(prepared):
    store = SequenceStore(prepared, "prune")
    first = store[1, 7]
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 (what torch does with spawned workers)
    assert torch.equal(again[1, 7]["tokens"], first["tokens"])
    assert first["tokens"].tolist() == [[1, 7, 0, 0]] and first["tokens"].dtype == torch.int64


def validation(directory, **settings):
    return ValidationLoader(SequenceStore(directory, "validation"), **settings)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_gives_every_rank_the_same_number_of_batches_of_one_shape(prepared, world):
    loaders = [
        validation(prepared, sequences=20, micro_batch=4, rank=r, world_size=world) for r in range(world)
    ]
    batches = [list(each) for each in loaders]
    assert len({len(part) for part in batches} | {len(each) for each in loaders}) == 1
    everything = [batch for part in batches for batch in part]
    assert {batch["tokens"].shape for batch in everything} == {(4, 4)}
    everything.sort(key=lambda batch: batch["micro_batch"])
    domain = torch.cat([batch["domain"] for batch in everything])
    tokens = torch.cat([batch["tokens"] for batch in everything])[domain >= 0]
    chunks = {"a": [5, 5, 3], "b": [5] * 8, "c": [5, 5, 5, 5, 2]}
    wanted = [[d, s] for d, name in enumerate(chunks) for s in sample(name, chunks[name], 20).tolist()]
    assert tokens[:, :2].tolist() == wanted and len(wanted) == 53
    assert int((domain < 0).sum()) == -53 % (4 * world)


def test_validation_sees_all_of_a_domain_and_not_its_beginning(prepared):
    """The first sequences would be those of the first file: 12 of 40 say nothing of the other 28."""
    batches = validation(prepared, sequences=12, micro_batch=1)
    numbers = [int(batch["tokens"][0, 1]) for batch in batches if int(batch["domain"]) == 1]
    assert len(numbers) == 12 and all(40 * k // 12 <= n < 40 * (k + 1) // 12 for k, n in enumerate(numbers))


def test_validation_is_the_same_each_time(prepared):
    each = validation(prepared, sequences=5, micro_batch=2)
    first = [copy.deepcopy(batch) for batch in each]
    assert all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(first, each, strict=True))


def test_validation_of_nothing_is_refused(prepared):
    with pytest.raises(DataError, match="validation_sequences"):
        validation(prepared, sequences=0, micro_batch=1)
