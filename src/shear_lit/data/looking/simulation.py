"""What each domain would supply to a run whose mixture moved as it is written down: sequences, tokens and epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import cast

from shear_lit.data.errors import DataError
from shear_lit.data.looking.inspection import table
from shear_lit.data.order.mixture import Caps, check_named
from shear_lit.data.order.mixture_log import MixtureLog, read_mixture_log
from shear_lit.data.order.schedule import MixtureSchedule, normalised
from shear_lit.data.prepared.manifest import Manifest, check_same_domains

EXACT_SEQUENCES = 2_000_000
"""Up to so many the schedule itself is run; a longer run is computed from the weights."""

_KEY = "data.mixture.proportions"
Segments = list[tuple[int, tuple[float, ...]]]
"""For how many steps which weights are in force."""
Supplied = tuple[Sequence[float], Sequence[int | None]]
"""Sequences of each domain, and from which step on it supplies none."""


@dataclass(frozen=True, kw_only=True)
class Supply:
    """What the domains supply to a run."""

    steps: int
    """Optimizer steps of the run."""
    global_batch: int
    """Sequences of one of them."""
    sequence_length: int
    """Tokens of one sequence."""
    exact: bool
    """Whether the schedule was run; otherwise each number is within one sequence per update of what it would give."""
    there: dict[str, int]
    """Sequences that each domain has."""
    drawn: dict[str, float]
    """Sequences that each domain supplies."""
    capped: bool
    """Whether a cap was given."""
    runs_out: dict[str, int]
    """The optimizer step from which on a domain supplies nothing more, for those that run out."""

    def __str__(self) -> str:
        rows = [self._row(name, drawn) for name, drawn in self.drawn.items()]
        how = "counted by the schedule" if self.exact else "computed from the weights"
        tokens = self.steps * self.global_batch * self.sequence_length
        return f"{self.steps:,} steps of {self.global_batch:,} sequences, {tokens:,} tokens, {how}\n{table(rows)}"

    def _row(self, name: str, drawn: float) -> dict[str, str | float]:
        row: dict[str, str | float] = {
            "domain": name,
            "sequences": round(drawn),
            "tokens": round(drawn * self.sequence_length),
            "share": drawn / (self.steps * self.global_batch),
            "epochs": drawn / max(1, self.there[name]),  # a domain may have nothing, and weight 0
        }
        if self.capped:
            row["runs out"] = f"at step {self.runs_out[name]:,}" if name in self.runs_out else "-"
        return row


def simulate(
    manifest: Manifest,
    split: str,
    history: MixtureLog,
    *,
    steps: int,
    global_batch: int | None = None,
    max_epochs: Caps = None,
) -> Supply:
    """What each domain of ``split`` would supply; the batch is that of the history unless ``global_batch`` is given.

    Raises:
        DataError: the batch or the steps make no sense, no batch is known, or too little is left to fill a batch.
    """
    changed = [update.step for update in history.updates if update.global_batch]
    if changed and global_batch is None:
        raise DataError(
            f"the run changed its global batch at step {changed[0]}: a simulation has one. Give --global_batch.",
            key="global_batch",
        )
    batch = history.global_batch if global_batch is None else global_batch
    if batch < 1 or steps < 1:
        raise DataError(
            f"{steps}, global_batch={batch or None}: both must be at least 1 to simulate a run. Give --steps, and "
            "--global_batch where the file does not say it.",
            key="steps",
        )
    sizes = manifest.chunk_sizes(split)
    check_named("max_epochs", max_epochs, sizes, f"the data in {manifest.place}")
    schedule = MixtureSchedule(
        sizes, global_batch=batch, seed=0, max_epochs=max_epochs
    )  # no count depends on the seed
    exact, segments = steps * batch <= EXACT_SEQUENCES, _segments(history, tuple(sizes), steps)
    drawn, runs_out = (_counted if exact else _computed)(schedule, segments)
    return Supply(
        steps=steps,
        global_batch=batch,
        sequence_length=manifest.sequence_length,
        exact=exact,
        there={name: sum(chunks) for name, chunks in sizes.items()},
        drawn=dict(zip(sizes, drawn, strict=True)),
        capped=max_epochs is not None,
        runs_out={name: step for name, step in zip(sizes, runs_out, strict=True) if step is not None},
    )


def read_history(path: str | Path, domains: Sequence[str], where: str) -> MixtureLog:
    """Read the ``mixture.json`` of a run, its directory, or a file with nothing but ``updates``, of these ``domains``.

    Raises:
        DataError: there is none, it is of another kind, or of other domains than ``where`` has.
    """
    history = read_mixture_log(path, bare=True)
    check_same_domains(domains, history.domains, _KEY, where, value=repr(str(path)))
    if history.updates[0].step:
        raise DataError(
            f"{str(path)!r}: its updates begin with step {history.updates[0].step}: the first must be 0. Correct it.",
            key=_KEY,
        )
    return history


def _segments(history: MixtureLog, domains: Sequence[str], steps: int) -> Segments:
    """How many of the first ``steps`` steps each mixture is in force for."""
    begins = [*(min(update.step, steps) for update in history.updates), steps]
    weights = [normalised([update.weights[name] for name in domains]) for update in history.updates]
    return [
        (end - begin, w) for (begin, end), w in zip(pairwise(begins), weights, strict=True) if end > begin
    ]


def _counted(schedule: MixtureSchedule, segments: Segments) -> Supplied:
    state = schedule.start(segments[0][1])
    runs_out: list[int | None] = [None] * len(schedule.domains)
    for steps, weights in segments:
        state = schedule.reweighted(state, weights)
        for _ in range(steps):
            _, state = schedule.next_batch(state)
            for i, left in enumerate(schedule.left(state)):
                if left <= 0 < weights[i] and runs_out[i] is None:
                    runs_out[i] = state.batch if state.drawn[i] else 0
    return state.drawn, runs_out


def _computed(schedule: MixtureSchedule, segments: Segments) -> Supplied:
    """As fractions of sequences, from one time at which a domain runs out, or the mixture moves, to the next."""
    state = schedule.start(segments[0][1])
    left, at, end = list(schedule.left(state)), 0.0, 0
    drawn, runs_out = [0.0] * len(left), cast(list[int | None], [None] * len(left))
    for steps, weights in segments:
        end += steps
        while at < end:
            spent = tuple(step is not None for step in runs_out)
            state = replace(state, exhausted=spent, drawn=tuple(map(round, drawn)), batch=int(at))
            state = schedule.reweighted(state, weights)
            rates = [schedule.global_batch * weight for weight in state.weights]
            spans = [more / rate if rate else math.inf for more, rate in zip(left, rates, strict=True)]
            span = min(end - at, *spans)
            at = at + span if span < end - at else end
            for i, rate in enumerate(rates):
                drawn[i], left[i] = drawn[i] + rate * span, left[i] - rate * span
                if spans[i] <= span:
                    runs_out[i] = math.ceil(at - 1e-6)
    return drawn, runs_out
