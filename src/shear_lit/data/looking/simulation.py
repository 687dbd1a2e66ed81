"""What each domain would supply to a run whose mixture moved as it is written down: sequences, tokens and epochs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.looking.inspection import table
from shear_lit.data.order.mixture_log import FORMAT, MIXTURE_LOG
from shear_lit.data.order.schedule import MixtureSchedule, normalised
from shear_lit.data.prepared.manifest import Manifest, check_same_domains
from shear_lit.disk.names import expanded
from shear_lit.disk.records import read_values, record_of, shown

EXACT_SEQUENCES = 2_000_000
"""Up to so many the schedule itself is run; a longer run is computed from the weights."""


_KEY = "data.mixture.proportions"


@dataclass(frozen=True, kw_only=True)
class MixtureHistory:
    """The weights of a run over time."""

    updates: tuple[tuple[int, tuple[float, ...]], ...]
    """From which optimizer step on (the first is 0), and the weights by domain."""
    global_batch: int | None
    """Sequences of one optimizer step of that run, if it is written down."""

    def segments(self, steps: int) -> list[tuple[int, tuple[float, ...]]]:
        """How many of the first ``steps`` steps each mixture is in force for."""
        begins = [min(step, steps) for step, _ in self.updates] + [steps]
        weights = [weights for _, weights in self.updates]
        return [
            (end - begin, w) for (begin, end), w in zip(pairwise(begins), weights, strict=True) if end > begin
        ]


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

    def __str__(self) -> str:
        rows = [
            {
                "domain": name,
                "sequences": round(drawn),
                "tokens": round(drawn * self.sequence_length),
                "share": drawn / (self.steps * self.global_batch),
                "epochs": drawn / max(1, self.there[name]),  # a domain may have nothing, and weight 0
            }
            for name, drawn in self.drawn.items()
        ]
        how = "counted by the schedule" if self.exact else "computed from the weights"
        tokens = self.steps * self.global_batch * self.sequence_length
        return f"{self.steps:,} steps of {self.global_batch:,} sequences, {tokens:,} tokens, {how}\n{table(rows)}"


def simulate(
    manifest: Manifest, split: str, history: MixtureHistory, *, steps: int, global_batch: int | None = None
) -> Supply:
    """What each domain of ``split`` would supply; the batch is that of the history unless ``global_batch`` is given.

    Raises:
        DataError: the batch or the steps make no sense, or no batch is known.
    """
    batch = history.global_batch if global_batch is None else global_batch
    if batch is None or batch < 1 or steps < 1:
        raise DataError(
            f"{steps}, global_batch={batch}: both must be at least 1 to simulate a run. Give --steps, and "
            "--global_batch where the file does not say it.",
            key="steps",
        )
    sizes = manifest.chunk_sizes(split)
    exact = steps * batch <= EXACT_SEQUENCES
    segments = history.segments(steps)
    counts = _counted(sizes, segments, batch) if exact else _computed(segments, batch)
    return Supply(
        steps=steps,
        global_batch=batch,
        sequence_length=manifest.sequence_length,
        exact=exact,
        there={name: sum(chunks) for name, chunks in sizes.items()},
        drawn=dict(zip(sizes, counts, strict=True)),
    )


def _counted(
    sizes: Mapping[str, Sequence[int]], segments: list[tuple[int, tuple[float, ...]]], batch: int
) -> Sequence[float]:
    schedule = MixtureSchedule(sizes, global_batch=batch, seed=0)  # no count depends on the seed
    state = schedule.start(segments[0][1])
    for steps, weights in segments:
        state = schedule.reweighted(state, weights)
        for _ in range(steps):
            _, state = schedule.next_batch(state)
    return state.drawn


def _computed(segments: list[tuple[int, tuple[float, ...]]], batch: int) -> Sequence[float]:
    shares = [[steps * batch * w for w in normalised(weights)] for steps, weights in segments]
    return [math.fsum(domain) for domain in zip(*shares, strict=True)]


def read_history(path: str | Path, domains: Sequence[str], where: str) -> MixtureHistory:
    """Read a ``mixture.json`` of a run, its directory, or a file with nothing but ``updates``.

    The weights come in the order of ``domains``, those of ``where``.

    Raises:
        DataError: there is none, it is of another kind, or it is of other domains.
    """
    file = expanded(path)
    file = file / MIXTURE_LOG if file.is_dir() else file
    try:
        content = read_values(file)
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise ValueError(f"format {shown(content['format'])}, this version reads {FORMAT}")
        wanted = {name: content[name] for name in ("updates", "global_batch") if name in content}
        history = record_of(_History, wanted)
        return _checked(history, domains, str(file), where)
    except DataError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{str(file)!r} cannot be read ({getattr(error, 'strerror', None) or error}): expected is a run's "
            f'{MIXTURE_LOG}, or {{"updates": [{{"step": 0, "weights": {{"wiki": 1}}}}, …]}}. Correct it.',
            key=_KEY,
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Update:
    step: int
    weights: dict[str, float]
    losses: dict[str, float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class _History:
    updates: list[_Update]
    global_batch: int | None = None


def _checked(history: _History, domains: Sequence[str], file: str, where: str) -> MixtureHistory:
    steps = [update.step for update in history.updates]
    if not steps or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
        raise DataError(
            f"{file!r}: the steps of its updates are {shown(steps)}: the first must be 0, and they must grow. "
            "Correct them.",
            key=_KEY,
        )
    for update in history.updates:
        check_same_domains(domains, update.weights, _KEY, where, value=f"{file!r}, step {update.step}")
        if min(update.weights.values()) < 0 or not 0 < math.fsum(update.weights.values()) < math.inf:
            raise DataError(
                f"{file!r}: the weights of step {update.step} are no mixture: each is at least 0, and one is above 0. "
                "Correct them.",
                key=_KEY,
            )
    ordered = tuple(
        (update.step, normalised([float(update.weights[name]) for name in domains]))
        for update in history.updates
    )
    return MixtureHistory(updates=ordered, global_batch=history.global_batch)
