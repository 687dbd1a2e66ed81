"""Line and area charts as SVG: drawn for a width of 360, so that their words are readable on a telephone, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shear_lit.reporting.run_page.drawing import COLOURS, Drawing, Entry
from shear_lit.reporting.run_page.markup import few, number, text
from shear_lit.reporting.run_page.scales import Range

WIDTH, HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 8, 34
_POINTS, _HOVERS = 360, 40


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    steps: bool = False
    """Whether a number holds until the next one."""


def line_chart(
    name: str, lines: Sequence[Line], x: Range, y: Range, *, x_name: str = "step", marks: Sequence[float] = ()
) -> Drawing:
    """Lines over a common axis, with a legend where there are several; ``marks`` are places on the x axis."""
    parts = [_axes(x, y, x_name)]
    for mark in marks:
        at = _x(mark, x)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
    for line in lines:
        parts.append(_path(line, x, y))
    pointed = [
        f'<circle class="hover c{line.colour % COLOURS}" cx="{_x(at, x):.1f}" cy="{_y(value, y):.1f}" r="5">'
        f"<title>{text(line.label)}, {x_name} {number(at)}: {number(value)}</title></circle>"
        for line in lines
        if not line.dashed
        for at, value in few(line.points, _HOVERS)
    ]
    entries = [Entry(label=line.label, colour=line.colour, dashed=line.dashed) for line in lines]
    return _drawing(name, parts, pointed=pointed, legend=entries if len(entries) > 1 else ())


def area_chart(
    name: str, changes: Sequence[tuple[int, Mapping[str, float]]], names: Sequence[str], x: Range
) -> Drawing:
    """Shares that add up to 1, each from its step on, one above the other in the order of ``names``."""
    y, parts = Range(0.0, 1.0), []
    starts = [step for step, _ in changes]
    ends = [*starts[1:], max(int(x.high), starts[-1])]
    base = [0.0] * len(changes)
    for index, domain in enumerate(names):
        top = [low + shares.get(domain, 0.0) for low, (_, shares) in zip(base, changes, strict=True)]
        upper = [(at, high) for a, b, high in zip(starts, ends, top, strict=True) for at in (a, b)]
        lower = [(at, low) for a, b, low in zip(starts, ends, base, strict=True) for at in (a, b)]
        outline = " ".join(f"{_x(at, x):.1f},{_y(value, y):.1f}" for at, value in [*upper, *reversed(lower)])
        said = f"{domain}: {changes[0][1].get(domain, 0):.1%} at first, {changes[-1][1].get(domain, 0):.1%} at last"
        parts.append(
            f'<polygon class="area c{index % COLOURS}" points="{outline}"><title>{text(said)}</title></polygon>'
        )
        base = top
    legend = [Entry(label=domain, colour=index) for index, domain in enumerate(names)]
    return _drawing(name, [_axes(x, y, "step", percent=True), *parts], legend=legend)


def _drawing(
    name: str, parts: Sequence[str], *, pointed: Sequence[str] = (), legend: Sequence[Entry] = ()
) -> Drawing:
    return Drawing(
        name=name,
        width=WIDTH,
        height=HEIGHT,
        parts="".join(parts),
        pointed="".join(pointed),
        legend=tuple(legend),
    )


def _x(value: float, x: Range) -> float:
    return _LEFT + x.share(value) * (WIDTH - _LEFT - _RIGHT)


def _y(value: float, y: Range) -> float:
    return HEIGHT - _BOTTOM - y.share(value) * (HEIGHT - _TOP - _BOTTOM)


def _axes(x: Range, y: Range, x_name: str, *, percent: bool = False) -> str:
    floor = HEIGHT - _BOTTOM
    parts = []
    for tick in y.ticks(5):
        at = _y(tick, y)
        said = f"{tick:.0%}" if percent else number(round(tick, 10))
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{_short(said)}</text>')
    for tick in x.ticks(4):
        if tick != round(tick):
            continue
        end = _x(tick, x)
        anchor = "end" if end > WIDTH - _RIGHT - 14 else "middle"
        parts.append(f'<text x="{end:.1f}" y="{floor + 14}" text-anchor="{anchor}">{tick:,.0f}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{text(x_name)}</text>')
    return "".join(parts)


def _short(said: str) -> str:
    """A number of an axis in the room that there is."""
    if len(said) <= 6:
        return said
    value = float(said.replace(",", ""))
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.1e}".replace("e-0", "e-")


def _path(line: Line, x: Range, y: Range) -> str:
    points = _thinned(line.points)
    if line.steps:
        later = [(at, value) for (_, value), (at, _) in pairwise(points)]
        points = [point for pair in zip(points, [*later, points[-1]], strict=True) for point in pair]
    outline = " ".join(f"{_x(at, x):.1f},{_y(value, y):.1f}" for at, value in points)
    kind = f"line c{line.colour % COLOURS}{' dashed' if line.dashed else ''}"
    if len(points) == 1:
        at, value = points[0]
        return f'<circle class="dot c{line.colour % COLOURS}" cx="{_x(at, x):.1f}" cy="{_y(value, y):.1f}" r="3"/>'
    return f'<polyline class="{kind}" points="{outline}"/>' if points else ""


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of many points, the lowest and the highest of every stretch: peaks stay."""
    if len(points) <= _POINTS:
        return list(points)
    size = -(-len(points) // (_POINTS // 2))
    found: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        found += sorted(ends)
    return [points[0], *found, points[-1]]
