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
from shear_lit.data.order.mixture_log import MixtureLog, log_of, read_mixture_log
from shear_lit.data.order.permutation import WINDOW_CHUNKS
from shear_lit.data.order.schedule import MixtureSchedule, normalised
from shear_lit.data.prepared.manifest import Manifest, check_same_domains
from shear_lit.disk.names import expanded
from shear_lit.disk.reading import read_yaml
from shear_lit.disk.records import one_line, shown

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
    lacks: dict[str, float]
    """Sequences that a domain would have to have besides, for its weights to be met within its cap; once, without."""
    chunks: dict[str, tuple[int, ...]]
    """Bytes of the chunks of each domain that is drawn from, with what belongs to them."""

    @property
    def window_bytes(self) -> int:
        """The least cache of a node that reads from storage: one window of each domain and one more chunk."""
        windows = [sorted(sizes, reverse=True)[:WINDOW_CHUNKS] for sizes in self.chunks.values()]
        return sum(map(sum, windows)) + max((window[0] for window in windows), default=0)

    @property
    def fetched_bytes(self) -> tuple[int, int]:
        """What a node reads from storage, whatever its part of the run: with a cache for all of it, and with the least.

        Every node needs every chunk, as each takes its part of every global batch.
        """
        once, again = 0, 0
        for name, sizes in self.chunks.items():
            rounds = self.drawn[name] / max(1, self.there[name])
            once += round(min(1.0, rounds) * sum(sizes))
            again += round(rounds * sum(sizes))
        return once, again

    def __str__(self) -> str:
        rows = [self._row(name, drawn) for name, drawn in self.drawn.items()]
        how = "counted by the schedule" if self.exact else "computed from the weights"
        tokens = self.steps * self.global_batch * self.sequence_length
        once, again = self.fetched_bytes
        return (
            f"{self.steps:,} steps of {self.global_batch:,} sequences, {tokens:,} tokens, {how}\n{table(rows)}\n"
            f"from storage, each node reads {once / 1e9:,.3f} GB, or {again / 1e9:,.3f} GB with the least cache, "
            f"{self.window_bytes / 1e9:,.3f} GB; at any number of processes"
        )

    def _row(self, name: str, drawn: float) -> dict[str, str | float]:
        row: dict[str, str | float] = {
            "domain": name,
            "sequences": round(drawn),
            "tokens": round(drawn * self.sequence_length),
            "share": drawn / (self.steps * self.global_batch),
            "epochs": drawn / max(1, self.there[name]),  # a domain may have nothing, and weight 0
        }
        row["lacks"] = math.ceil(self.lacks[name]) * self.sequence_length
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
    there = {name: sum(chunks) for name, chunks in sizes.items()}
    caps = max_epochs if isinstance(max_epochs, dict) else dict.fromkeys(sizes, max_epochs)
    wanted = [batch * sum(steps * weights[i] for steps, weights in segments) for i in range(len(sizes))]
    lacks = {
        name: max(0.0, need / (caps.get(name) or 1.0) - there[name])
        for name, need in zip(sizes, wanted, strict=True)
    }
    return Supply(
        steps=steps,
        global_batch=batch,
        sequence_length=manifest.sequence_length,
        exact=exact,
        there=there,
        drawn=dict(zip(sizes, drawn, strict=True)),
        capped=max_epochs is not None,
        runs_out={name: step for name, step in zip(sizes, runs_out, strict=True) if step is not None},
        lacks=lacks,
        chunks={
            name: tuple(
                sum(one.bytes for one in chunk.files())
                for chunk in manifest.domains[name].splits[split].chunks
            )
            for name, supplied in zip(sizes, drawn, strict=True)
            if supplied
        },
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


def read_plan(path: str, domains: Sequence[str], where: str) -> tuple[MixtureLog, int, Caps]:
    """What a run's YAML config says of its mixture at the start, which then stays; its steps; and its caps.

    Raises:
        DataError: it cannot be read, or does not say one of these in figures.
    """
    try:
        content = read_yaml(expanded(path))
        data, steps = content["data"], content["trainer"]["max_steps"]
        shares, batch = data["mixture"]["proportions"], data["global_batch"]
        caps = data["mixture"].get("max_epochs")
        update = {
            "step": 0,
            "weights": read_mixture_log(shares).final_weights if isinstance(shares, str) else shares,
        }
        found = log_of({"updates": [update], "global_batch": batch})
        if not isinstance(steps, int) or not isinstance(caps, int | float | dict | None):
            raise ValueError(f"trainer.max_steps={shown(steps)}, max_epochs={shown(caps)}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path!r}: {getattr(error, 'strerror', None) or one_line(error)}: of a config, "
            "data.mixture.proportions, data.global_batch and trainer.max_steps are read. "
            "Write them into it, or give the mixture.json of a run.",
            key=_KEY,
        ) from error
    check_same_domains(domains, found.domains, _KEY, where, value=repr(path))
    return found, steps, caps


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
