"""Pieces of HTML: everything that comes from a file is escaped here, and numbers are written in one way."""

import html
from collections.abc import Iterable, Sequence
from typing import TypeVar

_Point = TypeVar("_Point")


def text(value: object) -> str:
    """``value`` as text of a page."""
    return html.escape(str(value))


def number(value: float) -> str:
    """A number with four digits that count, and all digits of a whole one."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def axis_words(axis: str) -> str:
    """The name of an axis in words."""
    return axis.replace("_", " ").replace("kv ", "KV ")


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], *, name: str) -> str:
    """A table in a box of its own that scrolls where the page is narrow; numbers stand to the right."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    head_row = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(name)}"><table>{head_row}'
        f"<tbody>{body}</tbody></table></div>"
    )


def figures(heads: Sequence[object], rows: Iterable[Sequence[object]], *, name: str) -> str:
    """The same, folded: the numbers of a picture."""
    inner = table(heads, rows, name=f"Figures: {name}")
    return f"<details><summary>Figures: {text(name)}</summary>{inner}</details>"


def figure(picture: object, caption: str) -> str:
    """A picture with what it shows above it."""
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"


def section(title: str, *parts: str) -> str:
    """A section; none where it has no parts."""
    content = "\n".join(part for part in parts if part)
    return f"<section><h2>{text(title)}</h2>{content}</section>" if content else ""


def grid(parts: Iterable[str], *, columns: str = "") -> str:
    """Pictures beside each other, as many as there is room for."""
    content = "".join(parts)
    return f'<div class="grid {columns}">{content}</div>' if content else ""


def few(points: Sequence[_Point], most: int) -> list[_Point]:
    """At most ``most`` of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def _cell(cell: object) -> str:
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return f'<td class="number">{number(cell)}</td>'
    return f"<td>{text(cell)}</td>"
