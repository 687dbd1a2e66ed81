"""What is measured of the answers of one model, and how far those of two are apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from shear_lit.evaluation.document_loss import ratio
from shear_lit.evaluation.paired import Difference, Units, paired_difference
from shear_lit.evaluation.tables import Table

GRAM_WORDS = 4
"""Words of a piece that counts as repeated where it came before in its answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model wrote."""

    text: str
    """Without the tokens that end it."""
    tokens: int
    """Tokens of it."""
    ended: bool
    """Whether the model ended it, or the limit did."""

    @property
    def words(self) -> int:
        """Words of it."""
        return len(self.text.split())

    @property
    def repeated(self) -> float:
        """The share of its pieces of ``GRAM_WORDS`` words that came before in it; 0 where there is one at most."""
        words = self.text.split()
        pieces = [tuple(words[start : start + GRAM_WORDS]) for start in range(len(words) - GRAM_WORDS + 1)]
        return 1 - len(set(pieces)) / len(pieces) if pieces else 0.0


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model makes of every prompt."""

    references: NDArray[np.float64]
    """Loss, tokens and bytes of every reference."""
    answers: tuple[Answer, ...]
    """What the model writes itself."""

    def __post_init__(self) -> None:
        assert len(self.references) == len(self.answers)

    def each(self, name: str) -> Float64[np.ndarray, "prompts"]:
        """A figure of every answer."""
        return np.array([getattr(answer, name) for answer in self.answers], dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The figures, for programs."""
        loss, tokens, size = self.references.T
        return {
            "prompts": len(self.answers),
            "reference_loss": ratio(loss, tokens)[0],
            "reference_bits_per_byte": ratio(loss / math.log(2), size)[0],
            **{name: float(self.each(name).mean()) for name in ("words", "tokens", "repeated", "ended")},
        }


def answer_table(named: Sequence[tuple[str, Answers]]) -> Table:
    """The figures of several models."""
    rows = []
    for name, each in named:
        loss, tokens, size = each.references.T
        rows.append(
            (
                name,
                _figure(*ratio(loss, tokens)),
                _figure(*ratio(loss / math.log(2), size)),
                _mean(each.each("words"), ".1f"),
                _mean(100 * each.each("repeated"), ".1f"),
                f"{100 * each.each('ended').mean():.0f}",
            )
        )
    count = len(named[0][1].answers)
    return Table(
        title="Answers",
        header=("model", "reference, nats per token", "bits per byte", "words", "repeated, %", "ended, %"),
        rows=tuple(rows),
        note=(
            f"{count:,} prompts, ± one standard error. References: their likelihood as the answer. The others are of "
            f"the most probable answers: repeated is the share of pieces of {GRAM_WORDS} words that came before in "
            f"their answer."
        ),
    )


def answer_differences(first: Answers, other: Answers) -> dict[str, Difference]:
    """How far a model's answers are from the first one's; per token where both have the same, otherwise per byte."""
    if len(first.answers) != len(other.answers):
        return {}
    same = np.array_equal(first.references[:, 1], other.references[:, 1])
    column, scale, kind = (1, 1.0, "loss") if same else (2, math.log(2), "bits per byte")
    gap = (other.references[:, 0] - first.references[:, 0]) / scale
    found = {
        f"reference, {kind}": paired_difference([Units(differences=gap, sizes=first.references[:, column])])
    }
    for what, name in (("answer, words", "words"), ("answer, repeated", "repeated")):
        units = Units(differences=other.each(name) - first.each(name), sizes=np.ones(len(first.answers)))
        found[what] = paired_difference([units])
    return found


def _figure(value: float, stderr: float) -> str:
    return f"{value:.4f} ± {stderr:.4f}"


def _mean(values: NDArray[np.float64], form: str) -> str:
    stderr = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{values.mean():{form}} ± {stderr:{form}}"
