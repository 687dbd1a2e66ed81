"""The log of a run's mixture, ``mixture.json`` in the run's directory: each change, and the losses it followed.

``{"format": 1, "domains": [...], "global_batch": G, "sequence_length": T, "updates": [{"step": 0, "weights": {...},
"losses": {...} or null}, ...]}``, one update per step, in order. The first one is what the run began with.
Where a resume has changed the global batch, the update of its step says so. With the settings of the run, these weights
give its order of sequences again.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import is_domain_name, write_json
from shear_lit.disk.names import expanded
from shear_lit.disk.records import read_values, record_of, shown

FORMAT = 1
"""The version of the file that this package writes."""
MIXTURE_LOG = "mixture.json"
"""The file's name in the directory of a run."""


@dataclass(frozen=True, kw_only=True)
class MixtureChange:
    """The mixture from one optimizer step on."""

    step: int
    """The first optimizer step that draws with these weights."""
    weights: dict[str, float]
    """Fraction of each domain; they sum to 1."""
    losses: dict[str, float] | None
    """Nats per token that the mixture followed, nan where none was measured; none for what a run begins with."""
    within_error: tuple[str, ...] = ()
    """Domains whose loss is no further from its reference than the reference's own 95 % interval."""
    global_batch: int = 0
    """Sequences of an optimizer step from here on, where that has changed at a resume; 0: it has not."""


@dataclass(frozen=True, kw_only=True)
class MixtureLog:
    """How the mixture of a run moved."""

    domains: tuple[str, ...]
    """The domains' names, in the order of the data."""
    global_batch: int
    """Sequences of one optimizer step; 0 if it is not known."""
    sequence_length: int
    """Tokens of one sequence; 0 if it is not known."""
    updates: tuple[MixtureChange, ...] = ()
    """The changes, one per step, in order."""

    @property
    def present_batch(self) -> int:
        """Sequences of an optimizer step after the last change."""
        changed = [change.global_batch for change in self.updates if change.global_batch]
        return changed[-1] if changed else self.global_batch

    @property
    def final_weights(self) -> dict[str, float]:
        """The weights after the last update."""
        return self.updates[-1].weights

    def up_to(self, moved: int, step: int) -> "MixtureLog":
        """What a run knows that resumes at ``step`` and whose mixture last moved at ``moved``."""
        known = [change for change in self.updates if change.step <= (step if change.global_batch else moved)]
        return replace(self, updates=tuple(known))

    def followed_by(self, change: MixtureChange) -> "MixtureLog":
        """The log that ends with ``change``; what was written of its step, or of later ones, is no longer so.

        But for a global batch that changed there: it has.
        """
        earlier = [each for each in self.updates if each.step < change.step]
        same = [each.global_batch for each in self.updates if each.step == change.step]
        if same and not change.global_batch:
            change = replace(change, global_batch=same[0])
        return replace(self, updates=(*earlier, change))


def write_mixture_log(path: str | Path, log: MixtureLog) -> None:
    """Write ``log``, wholly or not at all."""
    content = asdict(log) | {"format": FORMAT, "updates": [_entry(change) for change in log.updates]}
    write_json(Path(path), content)


def read_mixture_log(
    path: str | Path, key: str = "data.mixture.proportions", *, bare: bool = False
) -> MixtureLog:
    """Read the log of a run; ``path`` is the file or the directory of the run.

    ``bare``: a file that a person wrote, with nothing but ``updates`` of ``step`` and ``weights``, is one, too.

    Raises:
        DataError: there is none, or it is not of the format that ``write_mixture_log`` writes; it names ``key``.
    """
    file = expanded(path)
    file = file / MIXTURE_LOG if file.is_dir() else file
    remedy = "write the fraction of each domain"
    if bare:
        remedy = 'write {"updates": [{"step": 0, "weights": {"wiki": 1}}, …]}'
    try:
        return log_of(read_values(file), bare=bare)
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be read ({error.strerror or error}): the {MIXTURE_LOG} of a run is expected there. "
            f"Correct the path, or {remedy}.",
            key=key,
        ) from error
    except ValueError as error:
        raise DataError(
            f"{str(file)!r}: {error}: it is no {MIXTURE_LOG} of a run. Name that of another run, or {remedy}.",
            key=key,
        ) from error


def _entry(change: MixtureChange) -> dict[str, Any]:
    losses = change.losses
    if losses is not None:  # JSON knows no nan
        losses = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}  # type: ignore[misc]
    doubtful = {"within_error": list(change.within_error)} if change.within_error else {}
    changed = {"global_batch": change.global_batch} if change.global_batch else {}
    return {"step": change.step, "weights": change.weights, "losses": losses, **doubtful, **changed}


@dataclass(frozen=True, kw_only=True)
class _Update:
    step: int
    weights: dict[str, float]
    losses: dict[str, float | None] | None = None
    within_error: tuple[str, ...] = ()
    global_batch: int = 0


@dataclass(frozen=True, kw_only=True)
class _Log:
    updates: list[_Update]
    format: int = FORMAT
    domains: list[str] = field(default_factory=list)
    global_batch: int = 0
    sequence_length: int = 0


def log_of(content: Any, *, bare: bool = True) -> MixtureLog:
    """The log that plain values hold.

    Raises:
        ValueError: they hold none.
    """
    log = record_of(_Log, content)
    if log.format != FORMAT:
        raise ValueError(f"format {log.format}, this version reads {FORMAT}")
    steps = [update.step for update in log.updates]
    if not steps or any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"the updates are of steps {shown(steps)}, which must be there and rise")
    domains = log.domains or (sorted(log.updates[0].weights) if bare else [])
    if not domains or not all(is_domain_name(name) for name in domains):
        raise ValueError(f"its domains are {shown(domains)}, which are no names of domains")
    if not bare and not (log.global_batch and log.sequence_length):
        raise ValueError("global_batch and sequence_length are at least 1")
    return MixtureLog(
        domains=tuple(domains),
        global_batch=log.global_batch,
        sequence_length=log.sequence_length,
        updates=tuple(_change_of(update, set(domains), bare=bare) for update in log.updates),
    )


def _change_of(update: _Update, domains: set[str], *, bare: bool) -> MixtureChange:
    total = math.fsum(update.weights.values())
    whole = set(update.weights) == domains and ((bare and 0 < total < math.inf) or abs(total - 1) <= 1e-6)
    if not whole or min(update.weights.values()) < 0:
        raise ValueError(f"the weights of step {update.step} are not one mixture of its domains")
    losses = update.losses
    if losses is not None and set(losses) != domains:
        raise ValueError(f"the losses of step {update.step} are not those of its domains")
    read = None if losses is None else {n: math.nan if v is None else float(v) for n, v in losses.items()}
    weights = {name: float(weight) for name, weight in update.weights.items()}
    return MixtureChange(
        step=update.step,
        weights=weights,
        losses=read,
        within_error=update.within_error,
        global_batch=update.global_batch,
    )
