"""Does a client compute what the reference does? Logits, greedy tokens and token ids, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shear_lit.evaluation.clients.asking import Answer

TOLERANCE = 1e-4
"""Largest difference of two clients' logits in float32, as a fraction of the largest logit."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the reference computed."""

    logits: np.ndarray
    """Of all positions of all rows, one after another."""
    greedy: Sequence[int] | None = None
    """The ids that it wrote."""
    greedy_logits: np.ndarray | None = None
    """The logits from which it took each of them."""
    ids: Sequence[int] | None = None
    """The ids of the text."""

    @property
    def scale(self) -> float:
        """The largest magnitude of a logit."""
        return float(np.abs(self.logits).max())


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a client is from the reference."""

    figure: float
    """Largest difference of logits (or of log-probabilities, where it tells those), as a fraction of the scale."""
    argmax: int
    """Positions at which the most probable token is the same."""
    positions: int
    """Positions that were compared."""

    @property
    def same(self) -> bool:
        """Whether it is within the tolerance; nan is not."""
        return self.figure <= TOLERANCE


def difference(answer: Answer, expected: Expected) -> Difference:
    """How far an answer's logits are from the expected ones; infinitely, where they are of another vocabulary."""
    found = np.load(answer.logits).astype(np.float64)
    wanted = expected.logits.astype(np.float64)
    if answer.positions is not None:
        wanted = wanted[list(answer.positions)]
    if found.shape != wanted.shape:
        return Difference(figure=float("inf"), argmax=0, positions=len(wanted))
    argmax = int((found.argmax(-1) == wanted.argmax(-1)).sum())
    if answer.kind == "log_probabilities":
        wanted = _log_softmax(wanted)
    largest = float(np.abs(found - wanted).max())
    return Difference(figure=largest / expected.scale, argmax=argmax, positions=len(wanted))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def first_other_token(found: Sequence[int], expected: Expected) -> tuple[int | None, bool]:
    """Where greedy tokens part from the expected ones (None: nowhere), and whether a tie is why."""
    assert expected.greedy is not None and expected.greedy_logits is not None
    for place, (token, wanted) in enumerate(zip(found, expected.greedy, strict=False)):
        if token != wanted:
            logits = expected.greedy_logits[place]
            behind = float(logits[wanted] - logits[token]) / expected.scale
            return place, behind <= 2 * TOLERANCE  # each of the two may be off by one
    if len(found) != len(expected.greedy):
        return min(len(found), len(expected.greedy)), False
    return None, False
