"""The log of a run's mixture, ``mixture.json`` in the run's directory: each change, and the losses it followed.

``{"format": 1, "domains": [...], "global_batch": G, "sequence_length": T, "updates": [{"step": 0, "weights": {...},
"losses": {...} or null}, ...]}``, one update per step, in order. The first one is what the run began with. With the
settings of the run, these weights give its order of sequences again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.manifest import write_json

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


@dataclass(frozen=True, kw_only=True)
class MixtureLog:
    """How the mixture of a run moved."""

    domains: tuple[str, ...]
    """The domains' names, in the order of the data."""
    global_batch: int
    """Sequences of one optimizer step."""
    sequence_length: int
    """Tokens of one sequence."""
    updates: tuple[MixtureChange, ...] = ()
    """The changes, one per step, in order."""

    @property
    def final_weights(self) -> dict[str, float]:
        """The weights after the last update."""
        return self.updates[-1].weights

    def up_to(self, step: int) -> "MixtureLog":
        """The log without what came after ``step``: what a run that resumes there knows."""
        return replace(self, updates=tuple(change for change in self.updates if change.step <= step))

    def followed_by(self, change: MixtureChange) -> "MixtureLog":
        """The log that ends with ``change``; what was written of its step, or of later ones, is no longer so."""
        earlier = self.up_to(change.step - 1)
        return replace(earlier, updates=(*earlier.updates, change))


def write_mixture_log(path: str | Path, log: MixtureLog) -> None:
    """Write ``log``, wholly or not at all."""
    content = asdict(log) | {"format": FORMAT, "updates": [_entry(change) for change in log.updates]}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(path), content)


def read_mixture_log(path: str | Path, key: str = "data.mixture.proportions") -> MixtureLog:
    """Read the log of a run; ``path`` is the file or the directory of the run.

    Raises:
        DataError: there is none, or it is not of the format that ``write_mixture_log`` writes; it names ``key``.
    """
    file = Path(path) / MIXTURE_LOG if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{key}={str(path)!r} cannot be read ({error.strerror}): the {MIXTURE_LOG} of a run is expected there. "
            "Correct the path, or write the fraction of each domain."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _malformed(key, file, f"it is no JSON ({error})") from error
    try:
        return _log_of(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _malformed(key, file, f"{error!r}") from error


def _entry(change: MixtureChange) -> dict[str, Any]:
    losses = change.losses
    if losses is not None:  # JSON knows no nan
        losses = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}  # type: ignore[misc]
    return {"step": change.step, "weights": change.weights, "losses": losses}


def _log_of(content: Mapping[str, Any]) -> MixtureLog:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}, this version reads {FORMAT}")
    domains = tuple(str(name) for name in content["domains"])
    updates = tuple(_change_of(entry, domains) for entry in content["updates"])
    steps = [change.step for change in updates]
    if not steps or any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"the updates are of steps {steps}, which must be there and rise")
    sizes = {name: int(content[name]) for name in ("global_batch", "sequence_length")}
    return MixtureLog(domains=domains, updates=updates, **sizes)


def _change_of(entry: Mapping[str, Any], domains: tuple[str, ...]) -> MixtureChange:
    weights = {name: float(weight) for name, weight in entry["weights"].items()}
    if set(weights) != set(domains) or abs(math.fsum(weights.values()) - 1) > 1e-6:
        raise ValueError(f"the weights of step {entry['step']} are not one mixture of its domains")
    losses = entry["losses"]
    if losses is not None:
        losses = {name: math.nan if loss is None else float(loss) for name, loss in losses.items()}
    return MixtureChange(step=int(entry["step"]), weights=weights, losses=losses)


def _malformed(key: str, file: Path, what: str) -> DataError:
    return DataError(
        f"{key}={str(file)!r}: {what}: it is no {MIXTURE_LOG} of a run. "
        "Name that of another run, or write the fraction of each domain."
    )
