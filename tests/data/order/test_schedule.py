"""The order of sequences: proportions inside every batch, epochs, caps, and a state that says it all."""

import functools
import hashlib
import json
import math
import random
import time
import tracemalloc

import numpy as np
import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.order import schedule as module
from shear_lit.data.order.permutation import DomainOrder, keyed_permutation
from shear_lit.data.order.schedule import (
    UNIT,
    MixtureSchedule,
    batch_counts,
    settled_carry,
)

batch_shares = functools.cache(module.batch_shares)

PAPER_DOMAINS = ("cc", "github", "book", "stackexchange", "wiki", "arxiv", "c4-rp")
PAPER_START = (0.67, 0.045, 0.045, 0.02, 0.045, 0.025, 0.15)


def walk(weights_by_batch, global_batch, batches, counts_of=batch_counts, settle=settled_carry):
    """Serve ``batches`` global batches and hold every promise of the schedule in each."""
    shares, carry = None, None
    for batch in range(batches):
        weights = weights_by_batch(batch)
        wanted = batch_shares(weights, global_batch)
        carry = [0] * len(weights) if carry is None else carry
        if wanted != shares and shares is not None:
            carry = settle(carry, wanted)
        shares = wanted
        counts = counts_of(shares, carry)
        assert sum(counts) == global_batch and min(counts) >= 0
        for n, share, left in zip(counts, shares, carry, strict=True):
            x = share + left
            assert n in (x // UNIT, -(-x // UNIT))
            assert share or n == 0
        carry = [share + left - n * UNIT for share, left, n in zip(shares, carry, counts, strict=True)]
        assert sum(carry) == 0 and max(map(abs, carry)) < UNIT
    return carry


def random_weights(chance, domains):
    """Weights over many orders of magnitude, some of them 0."""
    weights = [10 ** chance.uniform(-9, 0) if chance.random() > 0.15 else 0.0 for _ in range(domains)]
    weights[chance.randrange(domains)] = 1.0
    total = sum(weights)
    return tuple(w / total for w in weights)


@pytest.mark.parametrize("domains", [1, 2, 3, 7, 70])
@pytest.mark.parametrize("global_batch", [1, 32])
def test_counts_are_floor_or_ceiling_under_constant_weights(domains, global_batch):
    """Proved in the module's docstring: earliest deadline first, Hall's condition."""
    weights = random_weights(random.Random(domains * 1000 + global_batch), domains)
    walk(lambda _: weights, global_batch, 10_000 if domains < 7 else 2_000 if domains == 7 else 400)


@pytest.mark.parametrize("domains", [1, 2, 7, 70])
@pytest.mark.parametrize("every", [1, 50])
def test_counts_are_floor_or_ceiling_while_the_weights_change(domains, every):
    chance = random.Random(domains * 100 + every)
    mixtures = {}

    def weights(batch):
        return mixtures.setdefault(batch // every, random_weights(chance, domains))

    walk(weights, chance.choice([1, 2, 5, 32]), {1: 10_000, 2: 10_000, 7: 2_000, 70: 300}[domains])


def test_counts_are_floor_or_ceiling_for_ten_thousand_batches_of_the_papers_mixture():
    chance = random.Random(5)
    mixtures = {0: PAPER_START}

    def weights(batch):
        step = batch // 50
        if step not in mixtures:
            moved = [w * chance.uniform(0.8, 1.25) for w in mixtures[step - 1]]
            mixtures[step] = tuple(w / sum(moved) for w in moved)
        return mixtures[step]

    walk(weights, 32, 10_000)


@pytest.mark.parametrize("global_batch", [1, 2, 32])
def test_counts_survive_a_mixture_that_turns_against_what_is_owed(global_batch):
    """An adversary gives each domain that was just served next to nothing, and back again."""
    few = tuple([1e-7] * 30 + [(1 - 30e-7) / 5] * 5)
    many = tuple([1 / 35] * 35)
    none = tuple([1 / 30] * 30 + [0.0] * 5)
    walk(lambda batch: (few, many, none)[(batch // 3) % 3], global_batch, 900)


def largest_remainder(shares, carry):
    owed = [share + left for share, left in zip(shares, carry, strict=True)]
    counts = [max(0, x // UNIT) for x in owed]
    order = sorted(range(len(owed)), key=lambda i: (-(owed[i] - max(0, owed[i] // UNIT) * UNIT), i))
    for i in order[: sum(shares) // UNIT - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


def test_counts_by_largest_remainder_would_break_the_promise():
    """The broken twin: it serves tiny domains long before they are due, and then owes more than a batch."""
    weights = (0.25, 0.25, 0.25, 0.05, 0.05, 0.05, 0.05, 0.05)
    walk(lambda _: weights, 1, 100)
    with pytest.raises(AssertionError):
        walk(lambda _: weights, 1, 100, counts_of=largest_remainder)


def test_a_carry_kept_as_it_is_would_break_the_promise_when_weights_change():
    """The other broken twin: debts that the new weights cannot pay leave more sequences due than the batch has."""
    few, many = tuple([1e-9] * 8 + [0.5, 0.5]), tuple([0.1] * 10)

    def weights(batch):
        return many if batch % 7 < 6 else few

    walk(weights, 1, 600)
    with pytest.raises(AssertionError):
        walk(weights, 1, 600, settle=lambda carry, shares: carry)


def test_carry_is_kept_across_an_update_that_asks_for_no_more():
    shares = batch_shares((0.5, 0.3, 0.2), 32)
    carry = (UNIT // 4, -UNIT // 8, -UNIT // 8)
    assert settled_carry(carry, shares) == carry


def test_shares_sum_to_the_batch_exactly():
    for weights in ((1 / 3,) * 3, PAPER_START, (1e-300, 1.0), (0.1,) * 10):
        assert sum(batch_shares(weights, 7)) == 7 * UNIT


def schedule(sizes=None, **changes):
    settings = {"global_batch": 8, "seed": 3} | changes
    return MixtureSchedule(sizes or {"a": [5, 5, 3], "b": [40], "c": [7, 7]}, **settings)


def served(plan, state, batches):
    seen = []
    for _ in range(batches):
        batch, state = plan.next_batch(state)
        seen.append((batch.domain.tolist(), batch.sequence.tolist()))
    return seen, state


def test_each_epoch_gives_every_sequence_once_and_in_another_order():
    order = DomainOrder("a", [5, 5, 3, 5, 5, 5, 5, 5, 5, 4], seed=1)
    epochs = [order.draws(47 * epoch, 47).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(47)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_draws_are_the_same_however_they_are_grouped():
    whole = DomainOrder("a", [5] * 30, seed=1).draws(0, 400).tolist()
    order = DomainOrder("a", [5] * 30, seed=1)
    pieces = [order.draws(first, 7) for first in range(0, 400, 7)]
    assert np.concatenate(pieces)[:400].tolist() == whole
    assert DomainOrder("a", [5] * 30, seed=1).draws(250, 150).tolist() == whole[250:]


def test_permutation_never_changes():
    """The order of a run is part of its checkpoint: these numbers are written down."""
    assert keyed_permutation(17, 8).tolist() == [4, 6, 5, 3, 2, 1, 0, 7]
    assert sorted(keyed_permutation(5, 1000).tolist()) == list(range(1000))


def test_order_depends_on_the_seed_and_on_nothing_else():
    first, again, other = (served(p, p.start([0.5, 0.3, 0.2]), 20)[0] for p in map_seeds(3, 3, 4))
    assert first == again != other


def map_seeds(*seeds):
    return (schedule(seed=seed) for seed in seeds)


def test_batches_are_shuffled_and_meet_the_mixture():
    plan = schedule(global_batch=10)
    seen, _ = served(plan, plan.start([0.5, 0.3, 0.2]), 5)
    for domains, _ in seen:
        assert np.bincount(domains).tolist() == [5, 3, 2]
    assert seen[0][0] != seen[1][0] and seen[0][0] != sorted(seen[0][0])


def test_a_domain_of_one_sequence_is_served_again_and_again():
    plan = schedule({"one": [1], "more": [50]}, global_batch=4)
    seen, state = served(plan, plan.start([0.5, 0.5]), 10)
    assert plan.epochs(state)["one"] == 20
    assert all(s == 0 for domains, ids in seen for d, s in zip(domains, ids, strict=True) if d == 0)


def test_resuming_from_the_saved_state_gives_the_same_batches():
    plan = schedule()
    state = plan.start([0.5, 0.3, 0.2])
    whole, _ = served(plan, state, 30)
    for stop in (0, 1, 7, 29):
        _, half = served(plan, state, stop)
        saved = json.loads(json.dumps(plan.state_dict(half)))
        fresh = schedule()
        assert served(fresh, fresh.restored(saved), 30 - stop)[0] == whole[stop:]


def test_replaying_the_log_of_weights_gives_the_same_state():
    plan, log, chance = schedule(), [], random.Random(2)
    state = plan.start([0.5, 0.3, 0.2])
    for _ in range(20):
        weights = [chance.random() for _ in range(3)]
        log.append(weights)
        state = served(plan, plan.reweighted(state, weights), 5)[1]
    again = plan.start([0.5, 0.3, 0.2])
    for weights in log:
        again = served(plan, plan.reweighted(again, weights), 5)[1]
    assert again == state


def test_state_of_seven_domains_stays_below_a_kilobyte():
    plan = MixtureSchedule({name: [10_000] * 1000 for name in PAPER_DOMAINS}, global_batch=256, seed=17)
    state = plan.start([w + 1e-9 / 3 for w in PAPER_START])
    state = served(plan, state, 30)[1]
    state = module.replace(state, drawn=(123_456_789,) * 7, batch=48_000)
    loader = plan.state_dict(state) | {"position": 255}
    assert len(json.dumps({"data": "f" * 64, "updated_at": 48_000, "loader": loader})) < 1024


def test_saved_state_of_another_run_is_refused_with_its_key():
    plan = schedule()
    saved = plan.state_dict(plan.start([0.5, 0.3, 0.2]))
    for other, key in (
        (schedule(seed=4), "data.seed"),
        (schedule({"a": [13], "b": [40], "d": [14]}), "data.mixture.proportions"),
        (schedule({"a": [13], "b": [40], "c": [14]}), "data.directory"),
    ):
        with pytest.raises(DataError, match=key):
            other.restored(saved)


def test_another_global_batch_goes_on_with_what_domains_are_owed():
    """A hundred changes at random steps: each batch is floor or ceiling of share and carry, and nobody drifts."""
    chance, sizes = random.Random(5), (6, 8, 16, 30)
    weights, owed = [0.5, 0.3, 0.2], np.zeros(3)
    plan = schedule(global_batch=8)
    state = plan.start(weights)
    for _ in range(100):
        for _ in range(chance.randrange(1, 6)):
            batch, state = plan.next_batch(state)
            counts = np.bincount(batch.domain, minlength=3)
            owed = owed + plan.global_batch * np.array(weights) - counts
            assert (counts >= 0).all() and counts.sum() == plan.global_batch
            assert (np.abs(owed) < 1 + 1e-6).all() and abs(owed.sum()) < 1e-6
        saved = json.loads(json.dumps(plan.state_dict(state)))
        plan = schedule(global_batch=chance.choice(sizes))
        state = plan.restored(saved)
        # A debt larger than a share of the new batch is forgiven (``settled_carry``).
        owed = np.array(state.carry) / module.UNIT


def test_a_change_of_the_global_batch_that_is_none_changes_nothing():
    plan = schedule(global_batch=8)
    state = served(plan, plan.start([0.5, 0.3, 0.2]), 7)[1]
    assert schedule(global_batch=8).restored(plan.state_dict(state)) == state
    other = schedule(global_batch=80).restored(plan.state_dict(state))
    assert other == state  # a share of 80 is more than any debt


def test_a_capped_domain_is_read_to_its_last_sequence_and_its_weight_goes_to_the_others():
    plan = schedule({"small": [20], "large": [4000], "huge": [4000]}, max_epochs=1)
    state = plan.start([0.5, 0.3, 0.2])
    seen, state = served(plan, state, 60)
    assert plan.epochs(state)["small"] == 1 and plan.left(state)[0] == 0
    assert sorted(n for batch in seen for d, n in zip(*batch, strict=True) if d == 0) == list(range(20))
    assert state.weights == pytest.approx((0.0, 0.6, 0.4)) and state.carry[0] == 0
    last = np.bincount(seen[-1][0], minlength=3)
    assert last[0] == 0 and last[1] in (4, 5)
    saved = json.loads(json.dumps(plan.state_dict(state)))
    assert plan.restored(saved) == state


def test_a_domain_smaller_than_a_batch_is_read_to_its_last_sequence():
    """Its share of the first batch alone is more than it has: the others take up the rest in proportion."""
    plan = schedule({"small": [500], "large": [9000], "huge": [9000]}, global_batch=2048, max_epochs=1)
    batch, state = plan.next_batch(plan.start([0.5, 0.25, 0.25]))
    assert np.bincount(batch.domain).tolist() == [500, 774, 774] == list(state.drawn)
    _, state = plan.next_batch(state)
    assert state.drawn == (500, 774 + 1024, 774 + 1024) and state.exhausted == (True, False, False)


def test_a_domain_capped_by_name_leaves_the_others_to_go_on():
    sizes = {"a": [20], "b": [20], "c": [20]}
    plan = schedule(sizes, max_epochs={"a": 1, "b": 2.5})
    state = served(plan, plan.start([0.4, 0.4, 0.2]), 60)[1]
    assert state.drawn[:2] == (20, 50) and sum(state.drawn) == 60 * 8
    assert state.weights == (0.0, 0.0, 1.0) and state.exhausted == (True, True, False)


def capped_run(seed):
    """A random plan with caps and one domain without, a function that moves its weights, and the whole caps."""
    chance = random.Random(seed)
    domains = chance.randint(1, 9)
    sizes = {f"d{i}": [chance.randint(1, 20) for _ in range(chance.randint(1, 3))] for i in range(domains)}
    caps = {name: chance.choice([1, chance.uniform(0.01, 3)]) for name in sizes}
    plan = schedule(sizes | {"endless": [7]}, global_batch=chance.choice([1, 3, 32, 200]), max_epochs=caps)

    def moved(weights):
        return [w * 10 ** chance.uniform(-0.5, 0.5) + 1e-6 for w in weights]

    return plan, moved, [math.floor(caps[name] * sum(sizes[name])) for name in sizes]


def check_capped_batch(plan, caps, state, batch, after):
    """All that the module promises of one batch: of size, caps, carries and those that are out."""
    counts = np.bincount(batch.domain, minlength=len(caps) + 1)
    assert counts.sum() == plan.global_batch == len(batch.sequence)
    assert sum(after.carry) == 0 and max(map(abs, after.carry)) < UNIT
    shares = batch_shares(state.weights, plan.global_batch)
    for i, cap in enumerate(caps):
        assert after.drawn[i] <= cap and (not state.exhausted[i] or after.carry[i] == counts[i] == 0)
        assert not state.exhausted[i] or after.drawn[i] == cap
        if after.drawn[i] < cap:  # what others lack is made up for by those that live
            assert counts[i] >= (shares[i] + state.carry[i]) // UNIT - 1


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 200), marks=pytest.mark.nightly)], ids=str
)
def test_caps_are_used_up_exactly_whatever_runs_out_with_what(seeds):
    """In 100 runs: several run out in one batch, before a batch, and while the weights move."""
    runs_out = []
    for seed in seeds:
        plan, moved, caps = capped_run(seed)
        state = plan.start(moved([1.0] * (len(caps) + 1)))
        for step in range(20):
            if step % 4 == 3:
                state = plan.reweighted(state, moved(state.weights))
            before, (batch, state) = plan._without_exhausted(state), plan.next_batch(state)
            check_capped_batch(plan, caps, before, batch, state)
            lost = zip(plan.left(before), plan.left(state), strict=True)
            runs_out.append(sum(was > 0 >= now for was, now in lost))
        assert plan.restored(json.loads(json.dumps(plan.state_dict(state)))) == state
    # Otherwise it would show little.
    assert sum(runs_out) > 150 and sum(n > 1 for n in runs_out) > 30, runs_out


def test_order_without_caps_never_changes():
    """The order of a run is part of its checkpoint: this is what versions before whole epochs of caps gave."""
    chance, digest = random.Random(23), hashlib.sha256()
    plan = schedule({"a": [5, 5, 3], "b": [40], "c": [7, 7], "d": [1]}, global_batch=11)
    state = plan.start([0.5, 0.3, 0.15, 0.05])
    for batch in range(400):
        if batch and batch % 7 == 0:
            state = plan.reweighted(state, [chance.random() + 1e-3 for _ in range(4)])
        drawn, state = plan.next_batch(state)
        digest.update(drawn.domain.tobytes() + drawn.sequence.tobytes())
    digest.update(repr(state).encode())
    assert digest.hexdigest() == "8a052829652f7753ffcf56aa46afbc2c2a507a8004da1e4632f23739ec21653d"


def test_a_raised_cap_does_not_bring_a_domain_back_and_names_it():
    sizes = {"small": [20], "large": [4000]}
    plan = schedule(sizes, max_epochs=1)
    state = served(plan, plan.start([0.5, 0.5]), 20)[1]
    assert state.exhausted[0] and plan.held_back(state) == ()
    assert schedule(sizes, max_epochs={"small": 3}).held_back(state) == ("small",)


def test_a_capped_domain_stays_out_when_the_mixture_moves():
    plan = schedule({"small": [20], "large": [4000]}, max_epochs=1)
    state = served(plan, plan.start([0.5, 0.5]), 20)[1]
    assert plan.reweighted(state, [0.9, 0.1]).weights == (0.0, 1.0)


def test_all_domains_exhausted_is_an_error_that_names_the_cap():
    plan = schedule({"a": [20], "b": [30]}, max_epochs=2)
    with pytest.raises(
        DataError, match=r"max_epochs: at global batch 12 .*a 2.00 of 2, b 1.87 of 2.*Raise max_"
    ):
        served(plan, plan.start([0.5, 0.5]), 60)
    state = served(plan, plan.start([0.5, 0.5]), 12)[1]
    assert plan.left(state) == (0, 4)


def test_a_run_may_use_up_all_domains_in_its_last_batch():
    plan = schedule({"a": [20], "b": [28]}, max_epochs=1)
    assert served(plan, plan.start([0.5, 0.5]), 6)[1].drawn == (20, 28)
    with pytest.raises(
        DataError, match="at global batch 6 the domains that are drawn from have no batch left"
    ):
        served(plan, plan.start([0.5, 0.5]), 7)


def test_a_weight_of_zero_is_never_drawn():
    plan = schedule()
    seen, state = served(plan, plan.start([0.5, 0.0, 0.5]), 50)
    assert state.drawn[1] == 0 and all(1 not in domains for domains, _ in seen)


@pytest.mark.parametrize("weights", [[0, 0, 0], [-0.1, 0.6, 0.5], [float("nan"), 1, 1]])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(DataError, match="weights"):
        schedule().start(weights)


def test_a_domain_without_a_sequence_has_no_weight():
    sizes = {"none": [], "some": [30]}
    plan = schedule(sizes)
    state = served(plan, plan.start([0.0, 1.0]), 10)[1]
    assert plan.epochs(state) == {"none": 0, "some": 80 / 30}
    with pytest.raises(DataError, match=r"none: 0\.5\}: .*no sequence"):
        plan.start([0.5, 0.5])


def test_a_mixture_of_a_hundred_domains_is_met_and_its_state_restored():
    chance = random.Random(1)
    sizes = {f"d{i}": [chance.randint(1, 50)] * chance.randint(1, 4) for i in range(100)}
    plan = schedule(sizes, global_batch=32)
    weights = random_weights(chance, 100)
    state = served(plan, plan.start(weights), 200)[1]
    for drawn, weight in zip(state.drawn, weights, strict=True):
        assert abs(drawn - 200 * 32 * weight) < 1 + 1e-6
    assert plan.restored(json.loads(json.dumps(plan.state_dict(state)))) == state


def test_weights_that_were_normalised_once_stay_as_they_are():
    """A log of weights gives the run again, bit for bit."""
    chance = random.Random(3)
    for _ in range(1000):
        weights = module.normalised([chance.random() for _ in range(chance.randint(1, 90))])
        assert module.normalised(weights) == weights


def test_opening_at_ten_million_costs_no_more_than_at_zero():
    """Nothing is replayed: of a domain of 10 million sequences, one window is computed, wherever the position lies."""
    sizes = {"huge": [16_384] * 611, "one": [1]}
    seconds = []
    for position in (0, 10_000_000):
        saved = schedule(sizes).state_dict(schedule(sizes).start([0.9, 0.1]))
        saved |= {"drawn": [position * 9 // 10, position // 10], "batch": position // 8}
        start = time.perf_counter()
        plan = schedule(sizes)
        plan.next_batch(plan.restored(saved))
        seconds.append(time.perf_counter() - start)
        assert len(plan._orders[0]._windows) == 1
    assert seconds[1] - seconds[0] <= 0.5


def test_a_domain_of_ten_million_sequences_takes_little_memory():
    tracemalloc.start()
    order = DomainOrder("a", [16_384] * 611, seed=1)
    order.draws(9_500_000, 10), order.draws(200_000, 10), order.draws(3_000_000, 10)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 4_000_000  # two windows of 131,072; the whole order would take 80 MB
