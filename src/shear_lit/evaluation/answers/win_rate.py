"""Which of two models a judge prefers, over many prompts: wins, ties, and the interval of the rate."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shear_lit.evaluation.paired import Difference, Units, paired_difference
from shear_lit.evaluation.tables import Table


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge said of two answers, asked in both orders."""

    own_first: float | None
    """When its answer came first: 1 where it was preferred, 0 where the other was, 1/2 for neither; None: unclear."""
    own_second: float | None
    """Likewise when it came second."""

    @property
    def value(self) -> float:
        """1 for a win, 0 for a loss; 1/2 for a tie, which two orders that disagree are, and an unclear reply, too."""
        if self.own_first is None or self.own_second is None:
            return 0.5
        return {2.0: 1.0, 0.0: 0.0}.get(self.own_first + self.own_second, 0.5)

    @property
    def by_order(self) -> bool:
        """Whether the order decided: each time the first answer, or each time the second one."""
        return {self.own_first, self.own_second} == {0.0, 1.0}


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often one model's answers were preferred to another's."""

    model: str
    """The model."""
    against: str
    """The other one."""
    judge: str
    """Who judged."""
    verdicts: tuple[Verdict, ...]
    """By prompt."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Wins, ties and losses."""
        values = [verdict.value for verdict in self.verdicts]
        return values.count(1.0), values.count(0.5), values.count(0.0)

    @property
    def unclear(self) -> int:
        """Prompts of which a reply was none of the letters."""
        return sum(None in (verdict.own_first, verdict.own_second) for verdict in self.verdicts)

    @property
    def rate(self) -> Difference:
        """Wins and half of the ties, over all, with a 95 % interval by bootstrap over prompts."""
        values = np.array([verdict.value for verdict in self.verdicts], dtype=np.float64)
        return paired_difference([Units(differences=values, sizes=np.ones(len(values)))])

    def to_dict(self) -> dict[str, Any]:
        """All of it, for programs."""
        wins, ties, losses = self.counts
        return {
            **{"model": self.model, "against": self.against, "judge": self.judge},
            **{"wins": wins, "ties": ties, "losses": losses, "unclear": self.unclear},
            "by_order": sum(verdict.by_order for verdict in self.verdicts),
            "rate": asdict(self.rate),
        }


def win_table(rates: Sequence[WinRate]) -> Table:
    """The rates of several pairs of models."""
    rows = []
    for each in rates:
        wins, ties, losses = each.counts
        rate = each.rate
        rows.append(
            (
                each.model,
                each.against,
                *(f"{count:,}" for count in (wins, ties, losses)),
                f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]",
                f"{sum(verdict.by_order for verdict in each.verdicts):,}",
                f"{each.unclear:,}",
            )
        )
    return Table(
        title="Win rate",
        header=("model", "against", "wins", "ties", "losses", "win rate, %", "by order", "unclear"),
        rows=tuple(rows),
        note=(
            f"Judged by {rates[0].judge}, asked about each pair in both orders: a win is one in both. Ties, pairs "
            "where the order decided (by order) and unclear replies count half. 95 % intervals by bootstrap over "
            "prompts."
        ),
    )
