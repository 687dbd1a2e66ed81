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
        if isinstance(max_epochs, Mapping):
            self._max_epochs = [float(max_epochs.get(name, math.inf)) for name in self.domains]
        else:
            self._max_epochs = [math.inf if max_epochs is None else float(max_epochs)] * len(self.domains)
        layout: list[int | str] = []
        for name, sizes in chunk_sizes.items():
            layout += [name, *sizes]
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

        A domain is exhausted in the batch that *could* ask it for more than its cap leaves: it is left out of that
        batch and of all later ones, and its weight goes to the others in proportion.

        Raises:
            DataError: every domain of positive weight is exhausted.
        """
        state = self._without_exhausted(state)
        shares = self._shares(state.weights)
        counts = batch_counts(shares, state.carry)
        order = keyed_permutation(folded_key(self.seed, "batch", state.batch), self.global_batch)
        sequence = [o.draws(d, n) for o, d, n in zip(self._orders, state.drawn, counts, strict=True)]
        batch = GlobalBatch(np.repeat(np.arange(len(counts)), counts)[order], np.concatenate(sequence)[order])
        left = zip(shares, state.carry, counts, strict=True)
        return batch, replace(
            state,
            carry=tuple(share + owed - n * UNIT for share, owed, n in left),
            drawn=tuple(drawn + n for drawn, n in zip(state.drawn, counts, strict=True)),
            batch=state.batch + 1,
        )

    def epochs(self, state: ScheduleState) -> dict[str, float]:
        """How often each domain has been read, by name; 1.5 is once and a half."""
        read = zip(self.domains, state.drawn, self._orders, strict=True)
        return {name: drawn / max(1, order.sequences) for name, drawn, order in read}

    def held_back(self, state: ScheduleState) -> tuple[str, ...]:
        """Domains that are counted as exhausted though the present caps would let them be read again.

        Their weight went to the others when another cap held, and a domain of weight 0 stays there.
        """
        left = [
            cap * o.sequences - d
            for cap, o, d in zip(self._max_epochs, self._orders, state.drawn, strict=True)
        ]
        gone = zip(self.domains, state.exhausted, left, strict=True)
        return tuple(name for name, exhausted, more in gone if exhausted and more >= self.global_batch)

    def state_dict(self, state: ScheduleState) -> dict[str, Any]:
        """``state`` in plain types, with what it depends on."""
        return {
            **self._identity(),
            "weights": list(state.weights),
            "carry": [left / UNIT for left in state.carry],  # exact: powers of two
            "drawn": list(state.drawn),
            "exhausted": [name for name, gone in zip(self.domains, state.exhausted, strict=True) if gone],
            "batch": state.batch,
        }

    def restored(self, saved: Mapping[str, Any]) -> ScheduleState:
        """The state that ``state_dict`` saved.

        Raises:
            DataError: it belongs to another order: other seed, global batch, domains or data.
        """
        for name, here in self._identity().items():
            if saved.get(name) != here:
                raise DataError(
                    f"{here!r}: the checkpoint was made with {saved.get(name)!r}: "
                    "the order of sequences depends on it and could not go on. "
                    "Use the checkpoint's, or start a new run without --ckpt_path.",
                    key=_KEYS[name],
                )
        return ScheduleState(
            weights=tuple(saved["weights"]),
            carry=tuple(round(left * UNIT) for left in saved["carry"]),
            drawn=tuple(saved["drawn"]),
            exhausted=tuple(name in saved["exhausted"] for name in self.domains),
            batch=saved["batch"],
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "global_batch": self.global_batch,
            "domains": list(self.domains),
            "layout": self._layout,
        }

    def _shares(self, weights: tuple[float, ...]) -> tuple[int, ...]:
        if self._shares_of[0] != weights:
            self._shares_of = (weights, batch_shares(weights, self.global_batch))
        return self._shares_of[1]

    def _without_exhausted(self, state: ScheduleState) -> ScheduleState:
        while spent := self._spent(state):
            gone = tuple(a or b for a, b in zip(state.exhausted, spent, strict=True))
            state = self.reweighted(replace(state, exhausted=gone), state.weights)
        return state

    def _spent(self, state: ScheduleState) -> list[bool]:
        """Whether the next batch could ask a domain for more than its cap leaves; empty if none."""
        owed = zip(self._shares(state.weights), state.carry, strict=True)
        most = [-(-(share + left) // UNIT) if share else 0 for share, left in owed]
        after = zip(state.drawn, most, self._orders, self._max_epochs, strict=True)
        spent = [n > 0 and drawn + n > cap * order.sequences for drawn, n, order, cap in after]
        return spent if any(spent) else []

    def _nothing_left(self, state: ScheduleState) -> DataError:
        caps = zip(self.epochs(state).items(), self._max_epochs, strict=True)
        epochs = ", ".join(f"{name} {count:.2f} of {cap:g}" for (name, count), cap in caps)
        return DataError(
            f"data.mixture.max_epochs: at global batch {state.batch} no domain that is drawn from has a batch left "
            f"(epochs read: {epochs}). Raise max_epochs, lower trainer.max_steps, or prepare more text."
        )


_KEYS = {
    "seed": "data.seed",
    "global_batch": "data.global_batch",
    "domains": "data.mixture.proportions",
    "layout": "data.directory",
}
