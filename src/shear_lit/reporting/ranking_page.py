"""A ranking as a page: what orders each axis, how firm the order is, and the scores as bars."""

import html
from collections.abc import Iterator, Mapping

from torch import Tensor

from shear_lit.ranking.criteria import MEANINGS
from shear_lit.ranking.importance import ranks
from shear_lit.ranking.measuring import Measured
from shear_lit.ranking.scores import Origin
from shear_lit.theory.shape import Axis

_BARS = 96
"""Bars of a row at most; longer rows show their scores in order, thinned out."""
_WIDE, _WIDEST = 1.2, 40.0
"""Width of a bar, and of a row at most, in letters."""


def ranking_page(found: Measured, criteria: Mapping[Axis, str], origin: Origin) -> str:
    """The page, in HTML, complete in itself."""
    measured = "no text"
    if origin.sequences is not None:
        measured = f"{origin.sequences:,} sequences, {origin.tokens:,} tokens"
    facts = {"model": origin.source, "measured on": measured, "source fingerprint": origin.source_fingerprint}
    parts = [
        "<h1>Ranking</h1>",
        "<p>Written by <code>shear-lit rank</code>: which units of a model matter, without training it. Only the order "
        "within a row counts: a cut keeps the units with the longest bars of every row.</p>",
        _table(facts.items()),
        "<h2>Criteria</h2>",
        "<p>Agreement: how alike the orders are that either half of the text gives alone (rank correlation, mean over "
        "rows; 1 is the same order, 0 none), and the share of the better half of the units that both name.</p>",
        _criteria(found, criteria),
    ]
    for axis, values in found.importance.items():
        rows = values.reshape(-1, values.shape[-1])
        parts.append(f"<h2>{axis.value}</h2>")
        if len(rows) > 1:
            parts.append("<p>A row is a block of the model, or a group of heads in it, in their order.</p>")
        kind = "row low" if len(rows) > 1 else "row"
        parts += [
            f'<div class="{kind}"><span>{index}</span>{_bars(row)}</div>' for index, row in enumerate(rows)
        ]
    return _PAGE.format(content="\n".join(parts))


def agreement(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Rank correlation of two orders of the same units, and the share of the upper halves that they share; means."""
    one, other = (ranks(values.reshape(-1, values.shape[-1])).double() for values in (first, second))
    units = one.shape[-1]
    if units < 2:
        return 1.0, 1.0
    correlation = 1 - 6 * (one - other).square().sum(-1) / (units * (units**2 - 1))
    upper = max(1, units // 2)
    shared = ((one < upper) & (other < upper)).double().sum(-1) / upper
    return float(correlation.mean()), float(shared.mean())


def _criteria(found: Measured, criteria: Mapping[Axis, str]) -> str:
    first, second = found.halves
    rows = []
    for axis in found.importance:
        alike = ("not measured", "not measured")
        if axis in first and axis in second:
            alike = tuple(f"{number:.3f}" for number in agreement(first[axis], second[axis]))  # type: ignore[assignment]
        rows.append((axis.value, criteria[axis], MEANINGS[criteria[axis]], *alike))
    return _table(rows, heads=("axis", "criterion", "what it is", "agreement", "upper half shared"))


def _bars(row: Tensor) -> str:
    values = row.double()
    if len(values) > _BARS:  # sorted: of so many, what matters is how steeply they fall
        values = values.sort(descending=True).values
        values = values[(values.new_tensor(range(_BARS)) * (len(values) - 1) / (_BARS - 1)).long()]
    low, high = min(0.0, float(values.min())), float(values.max())
    span = (high - low) or 1.0
    bars = (f'<i style="height:{100 * (float(value) - low) / span:.1f}%"></i>' for value in values)
    width = min(_WIDEST, _WIDE * len(values))  # a few heads are a few bars, not a few walls
    return (
        f'<div class="bars" style="width:{width:g}rem">{"".join(bars)}</div>'
        f"<small>{float(row.min()):.3g} to {high:.3g}</small>"
    )


def _table(rows: object, heads: tuple[str, ...] = ()) -> str:
    def cells(row: tuple[object, ...], tag: str) -> Iterator[str]:
        return (f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row)

    lines = [f"<tr>{''.join(cells(heads, 'th'))}</tr>"] if heads else []
    lines += [f"<tr>{''.join(cells(row, 'td'))}</tr>" for row in rows]  # type: ignore[attr-defined]
    return f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>'


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ranking</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
.wide {{ overflow-x: auto; }}
h1, h2, td {{ overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td, th {{ border-bottom: 1px solid #ddd; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }}
.row {{ display: flex; align-items: end; gap: .75rem; margin: .25rem 0; }}
.low {{ margin: 1px 0; line-height: 1.1; }}
.low .bars {{ height: 1.1rem; }}
.row span {{ width: 2rem; text-align: right; color: #595959; }}
.bars {{ display: flex; align-items: end; gap: 1px; height: 2.5rem; max-width: 55vw; border-bottom: 1px solid #bbb; }}
.bars i {{ flex: 1; background: #3b6ea5; min-height: 1px; }}
small {{ color: #595959; }}
</style>
<main>
{content}
</main>
</html>
"""
