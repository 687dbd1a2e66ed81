"""Which sequence comes next: the domain mixture, met inside every global batch (arXiv:2310.06694, section 2.2).

The order is a pure function of (seed, weights over time, position). It knows nothing of ranks, workers or files, and
its state is a few numbers per domain.

**Proportions.** A domain of weight w gets a *share* of G·w sequences of each global batch of G, plus its *carry*, what
earlier batches owe it. It is served the floor or the ceiling of x = share + carry, never less than 0, and x minus what
it was served is its next carry. So \\|carry\\| < 1 and the carries sum to 0. The domains that get the ceiling are those
whose next sequence would be overdue first (earliest deadline). All of it is integer arithmetic in units of 2⁻³² of a
sequence: nothing drifts.

**Why that never gets stuck.** Let S(t) be carry + t·share. The j-th next sequence of a domain may be served from the
batch in which S(t) > j - 1 and must be by the batch in which S(t) ≥ j. These are unit jobs with integer windows and G
slots per batch, for which earliest deadline first finds a schedule whenever there is one; and there is one by Hall's
condition: from batch a + 1 to batch b a domain has at most S(b) - S(a) jobs that lie wholly inside, together (b - a)·G.
From the present state (a = 0) that asks for S(1) ≥ 0 in every domain, which holds after a batch with the same weights
by induction, and which ``settled_carry`` restores when the weights change. No slot stays empty, because the sum of
the ceilings of x is at least G.

**Caps.** A domain supplies the whole sequences that its cap allows, to the last one. Where a batch owes it more than
it has left, it supplies these, and the others share the rest of the batch, G' sequences, in proportion: that is one
batch of G' with other shares, for which their carry is settled as after any change of weights. From then on its
weight is 0 and theirs are larger, which settles the carry again. So what was said above holds of each batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from shear_lit.data.errors import DataError
from shear_lit.data.order.permutation import DomainOrder, Indices, folded_key, keyed_permutation

UNIT = 1 << 32
"""Shares and carries are integers: so many make one sequence."""

_ROUNDING = 1e-12


@dataclass(frozen=True)
class ScheduleState:
    """Where the schedule stands, between two global batches."""

    weights: tuple[float, ...]
    """The mixture, normalised; 0 for exhausted domains."""
    carry: tuple[int, ...]
    """What earlier batches owe each domain, in ``UNIT`` of a sequence."""
    drawn: tuple[int, ...]
    """Sequences drawn from each domain since the start."""
    exhausted: tuple[bool, ...]
    """Domains that reached their epoch cap."""
    batch: int
    """Global batches planned since the start."""


@dataclass(frozen=True)
class GlobalBatch:
    """The sequences of one optimizer step, in order."""

    domain: Indices
    """Index of the domain of each sequence."""
    sequence: Indices
    """Number of each sequence inside its domain."""


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    """``weights`` divided by their sum; as they are where that is 1 but for rounding, so that twice is once."""
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise DataError(
            f"the mixture's weights are {list(weights)}: each must be finite and at least 0, and one must be positive. "
            "Check the losses and the references that the mixture was updated with."
        )
    total = math.fsum(weights)
    if abs(total - 1) <= _ROUNDING:
        total = 1.0
    return tuple(float(weight) / total for weight in weights)


def batch_shares(weights: Sequence[float], global_batch: int) -> tuple[int, ...]:
    """Each domain's share of one global batch in ``UNIT``; they sum to the batch exactly (largest remainder)."""
    total = sum(Fraction(weight) for weight in weights)
    exact = [Fraction(weight) * global_batch * UNIT / total for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: global_batch * UNIT - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


def batch_counts(shares: Sequence[int], carry: Sequence[int]) -> tuple[int, ...]:
    """How many sequences of the next global batch each domain gets: floor or ceiling, earliest deadline first."""
    owed = [share + left for share, left in zip(shares, carry, strict=True)]
    counts = [max(0, x // UNIT) for x in owed]
    released = [i for i, x in enumerate(owed) if x > 0 and x % UNIT]
    released.sort(key=lambda i: ((UNIT - owed[i] % UNIT) / shares[i], i))  # batches until it would be overdue
    slots = sum(shares) // UNIT - sum(counts)
    assert 0 <= slots <= len(released), (shares, carry)
    for i in released[:slots]:
        counts[i] += 1
    return tuple(counts)


def settled_carry(carry: Sequence[int], shares: Sequence[int]) -> tuple[int, ...]:
    """The carry to go on with under new ``shares``; they sum to 0 again.

    Carry is kept, except that a domain without a share neither owes nor is owed, and that a debt larger than the first
    batch's share is forgiven: otherwise that batch could not be floor or ceiling and non-negative. Of debts and claims,
    the side that is then larger is scaled down to the other.
    """
    kept = [max(left, -share) if share else 0 for left, share in zip(carry, shares, strict=True)]
    surplus = sum(kept)
    larger = [left if left * surplus > 0 else 0 for left in kept]
    if not surplus:
        return tuple(kept)
    cuts = [abs(left) * abs(surplus) // abs(sum(larger)) for left in larger]
    for i, left in enumerate(larger):  # what the division left over: a few units
        cuts[i] += min(abs(left) - cuts[i], abs(surplus) - sum(cuts))
    sign = 1 if surplus > 0 else -1
    return tuple(left - sign * cut for left, cut in zip(kept, cuts, strict=True))


class MixtureSchedule:
    """The order of sequences of a run; a pure function of its state."""

    def __init__(
        self,
        chunk_sizes: Mapping[str, Sequence[int]],
        *,
        global_batch: int,
        seed: int,
        max_epochs: float | Mapping[str, float] | None = None,
    ) -> None:
        """Take the sequences of each chunk by domain, the sequences of a global batch, and the caps if there are any.

        ``max_epochs`` caps all domains, or those it names.
        """
        self.domains = tuple(chunk_sizes)
        self.global_batch = global_batch
        self.seed = seed
        self._orders = [DomainOrder(name, sizes, seed) for name, sizes in chunk_sizes.items()]
        by_name = max_epochs if isinstance(max_epochs, Mapping) else dict.fromkeys(self.domains, max_epochs)
        caps = [by_name.get(name) for name in self.domains]
        self._max_epochs = [math.inf if cap is None else float(cap) for cap in caps]
        sizes = zip(self._max_epochs, self._orders, strict=True)
        self._caps = [cap if math.isinf(cap) else math.floor(cap * order.sequences) for cap, order in sizes]
        layout: list[int | str] = []
        for name, chunks in chunk_sizes.items():
            layout += [name, *chunks]
        self._layout = f"{folded_key(*layout):016x}"
        self._shares_of: tuple[tuple[float, ...], tuple[int, ...]] = ((), ())

    def start(self, weights: Sequence[float]) -> ScheduleState:
        """The state before the first global batch.

        Raises:
            DataError: the weights are no mixture, or one is of a domain without a sequence.
        """
        for name, weight, order in zip(self.domains, weights, self._orders, strict=True):
            if weight > 0 and not order.sequences:
                raise DataError(
                    f"{{{name}: {weight}}}: the domain has no sequence to draw in this split. "
                    "Give it a proportion of 0, or prepare more text of it.",
                    key="data.mixture.proportions",
                )
        count = len(self.domains)
        return ScheduleState(normalised(weights), (0,) * count, (0,) * count, (False,) * count, 0)

    def reweighted(self, state: ScheduleState, weights: Sequence[float]) -> ScheduleState:
        """The state with another mixture; exhausted domains stay at 0. Equal weights change nothing."""
        wanted = [0.0 if gone else w for w, gone in zip(weights, state.exhausted, strict=True)]
        if not sum(wanted) > 0 and any(state.exhausted):
            raise self._nothing_left(state)
        fresh = normalised(wanted)
        before, after = self._shares(state.weights), self._shares(fresh)
        carry = state.carry if before == after else settled_carry(state.carry, after)
        return replace(state, weights=fresh, carry=carry)

    def next_batch(self, state: ScheduleState) -> tuple[GlobalBatch, ScheduleState]:
        """The next global batch and the state after it.

        A domain that has supplied all that its cap allows is exhausted: its weight goes to the others in proportion.

        Raises:
            DataError: the domains of positive weight have too little left to fill a batch.
        """
        state = self._without_exhausted(state)
        shares, carry, counts = self._dealt(state)
        order = keyed_permutation(folded_key(self.seed, "batch", state.batch), self.global_batch)
        sequence = [o.draws(d, n) for o, d, n in zip(self._orders, state.drawn, counts, strict=True)]
        batch = GlobalBatch(np.repeat(np.arange(len(counts)), counts)[order], np.concatenate(sequence)[order])
        return batch, replace(
            state,
            carry=tuple(s + owed - n * UNIT for s, owed, n in zip(shares, carry, counts, strict=True)),
            drawn=tuple(drawn + n for drawn, n in zip(state.drawn, counts, strict=True)),
            batch=state.batch + 1,
        )

    def left(self, state: ScheduleState) -> tuple[float, ...]:
        """Sequences that each domain may still supply; infinite without a cap."""
        return tuple(cap - drawn for cap, drawn in zip(self._caps, state.drawn, strict=True))

    def epochs(self, state: ScheduleState) -> dict[str, float]:
        """How often each domain has been read, by name; 1.5 is once and a half."""
        read = zip(self.domains, state.drawn, self._orders, strict=True)
        return {name: drawn / max(1, order.sequences) for name, drawn, order in read}

    def held_back(self, state: ScheduleState) -> tuple[str, ...]:
        """Domains that were exhausted under an earlier cap, though the present one leaves them something to supply."""
        there = zip(self.domains, state.exhausted, self.left(state), strict=True)
        return tuple(name for name, exhausted, more in there if exhausted and more > 0)

    def state_dict(self, state: ScheduleState) -> dict[str, Any]:
        """``state`` in plain types, with what it depends on."""
        return {
            **self._identity(),
            "global_batch": self.global_batch,
            "weights": list(state.weights),
            "carry": [left / UNIT for left in state.carry],  # exact: powers of two
            "drawn": list(state.drawn),
            "exhausted": [name for name, gone in zip(self.domains, state.exhausted, strict=True) if gone],
            "batch": state.batch,
        }

    def restored(self, saved: Mapping[str, Any]) -> ScheduleState:
        """The state that ``state_dict`` saved.

        The global batch may be another one. Carry is kept then, as after a change of weights: it counts sequences.

        Raises:
            DataError: it belongs to another order: other seed, domains or data.
        """
        for name, here in self._identity().items():
            if saved.get(name) != here:
                raise DataError(
                    f"{here!r}: the checkpoint was made with {saved.get(name)!r}: the order of sequences depends on it "
                    "and could not go on. Use the checkpoint's, or start a new run without --ckpt_path.",
                    key=_KEYS[name],
                )
        weights, carry = tuple(saved["weights"]), tuple(round(left * UNIT) for left in saved["carry"])
        if saved["global_batch"] != self.global_batch:
            carry = settled_carry(carry, self._shares(weights))
        return ScheduleState(
            weights=weights,
            carry=carry,
            drawn=tuple(saved["drawn"]),
            exhausted=tuple(name in saved["exhausted"] for name in self.domains),
            batch=saved["batch"],
        )

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "domains": list(self.domains), "layout": self._layout}

    def _shares(self, weights: tuple[float, ...]) -> tuple[int, ...]:
        if self._shares_of[0] != weights:
            self._shares_of = (weights, batch_shares(weights, self.global_batch))
        return self._shares_of[1]

    def _without_exhausted(self, state: ScheduleState) -> ScheduleState:
        each = zip(state.exhausted, state.weights, self.left(state), strict=True)
        spent = tuple(was or (weight > 0 and left <= 0) for was, weight, left in each)
        gone = replace(state, exhausted=spent)
        return state if gone == state else self.reweighted(gone, state.weights)

    def _dealt(self, state: ScheduleState) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """The shares and the carry of each domain in the next batch, and how many sequences it supplies.

        A domain that is owed more than it has left supplies what it has left, as its share, without a carry.
        """
        left = self.left(state)
        shares, carry = self._shares(state.weights), state.carry
        last: dict[int, int] = {}  # what domains supply that run out in this batch
        while True:
            counts = [last.get(i, n) for i, n in enumerate(batch_counts(shares, carry))]
            over = {i: int(left[i]) for i, n in enumerate(counts) if n > left[i]}
            last |= over
            shared = [0.0 if i in last else weight for i, weight in enumerate(state.weights)]
            if not over:
                return [last.get(i, 0) * UNIT or s for i, s in enumerate(shares)], carry, counts
            if not sum(shared) > 0:
                raise self._nothing_left(state)
            shares = batch_shares(shared, self.global_batch - sum(last.values()))
            carry = settled_carry(carry, shares)

    def _nothing_left(self, state: ScheduleState) -> DataError:
        caps = zip(self.epochs(state).items(), self._max_epochs, strict=True)
        epochs = ", ".join(f"{name} {count:.2f} of {cap:g}" for (name, count), cap in caps)
        return DataError(
            f"data.mixture.max_epochs: at global batch {state.batch} the domains that are drawn from have no batch "
            f"left (epochs read: {epochs}). Raise max_epochs, lower trainer.max_steps, or prepare more text."
        )


_KEYS = {
    "seed": "data.seed",
    "domains": "data.mixture.proportions",
    "layout": "data.directory",
}
