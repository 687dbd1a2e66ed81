"""What the gates did: which units go, when, and what is left."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shear_lit.reporting.run_page.cells import cells_picture, grouped
from shear_lit.reporting.run_page.facts import RunFacts, Snapshot
from shear_lit.reporting.run_page.lines import Line, line_chart
from shear_lit.reporting.run_page.markup import axis_words, figure, figures, grid, section, text
from shear_lit.reporting.run_page.scales import Range
from shear_lit.reporting.run_page.shape_drawing import shape_drawing
from shear_lit.theory.shape import Axis, ModelShape

_UNITS = {
    Axis.KV_HEADS: "KV heads",
    Axis.QUERY_HEADS: "query heads",
    Axis.INTERMEDIATE: "groups of feed-forward units",
}


def gates(runs: Sequence[RunFacts]) -> str:
    """Keep probabilities at the start, in the middle, and at the end, and the units that stay."""
    parts = []
    for run in runs:
        if not run.gates:
            continue
        heading = f"<h3>{text(run.name)}</h3>" if len(runs) > 1 else ""
        by_axis = [grid(_blocks(run, axis), columns="small") for axis in _UNITS]
        parts.append(
            heading + grid(filter(None, [_layers(run), _hidden(run)])) + "".join(by_axis) + _figures(run)
        )
    legend = (
        '<p>The stronger the blue of a cell, the likelier its unit is kept: <i class="ramp"></i> from 0 to 1. '
        "A row is a block of the source, the first one on top.</p>"
    )
    return section("Gates", legend, *parts) if parts else ""


def shapes(runs: Sequence[RunFacts]) -> str:
    """The model before and after, to scale, and its sizes as a table."""
    parts = []
    for run in runs:
        if run.cut is None or run.source_shape is None:
            continue
        of = f"{run.name}: " if len(runs) > 1 else ""
        before, after = run.source_shape.to_dict(), run.cut.shape.to_dict()
        sizes = figures(
            ("axis", "source", "left"),
            [(axis_words(axis), before[axis], after[axis]) for axis in before],
            name=f"{of}sizes before and after",
        )
        drawings = [
            figure(
                shape_drawing(run.source_shape, run.cut, after=False),
                text(f"{of}the source; what stays is blue"),
            ),
            figure(
                shape_drawing(run.source_shape, run.cut, after=True),
                text(f"{of}what is left, to the same scale; the numbers are blocks of the source"),
            ),
        ]
        parts.append(f"<p>{text(of + run.cut.meaning)}</p>{grid(drawings)}{sizes}")
    return section("Shape before and after", *parts)


def _layers(run: RunFacts) -> str:
    lines = [
        Line(
            label=f"step {shot.step:,}",
            points=list(enumerate(shot.chances[Axis.LAYERS].tolist())),
            colour=n,
            steps=True,
        )
        for n, shot in enumerate(run.gates)
        if Axis.LAYERS in shot.chances
    ]
    return _probabilities(lines, "layers: keep probability of each block", "block", ())


def _hidden(run: RunFacts) -> str:
    lines = [
        Line(
            label=f"step {shot.step:,}",
            points=list(enumerate(shot.chances[Axis.HIDDEN].sort(descending=True).values.tolist())),
            colour=n,
        )
        for n, shot in enumerate(run.gates)
        if Axis.HIDDEN in shot.chances
    ]
    marks = () if run.cut is None else (float(run.cut.shape.hidden),)
    return _probabilities(
        lines, "hidden: keep probabilities, sorted; the upright line is the target", "channel", marks
    )


def _probabilities(lines: Sequence[Line], title: str, x_name: str, marks: Sequence[float]) -> str:
    if not lines:
        return ""
    x = Range(0.0, max(1.0, *(line.points[-1][0] for line in lines)))
    return figure(line_chart(title, lines, x, Range(-0.03, 1.03), x_name=x_name, marks=marks), text(title))


def _blocks(run: RunFacts, axis: Axis) -> list[str]:
    """A picture of every snapshot, and one of the units that stay."""
    shots = [shot for shot in run.gates if axis in shot.chances]
    pictures = [_snapshot(shot, axis) for shot in shots]
    if pictures and run.cut is not None and run.source_shape is not None:
        pictures.append(_kept(run.source_shape, run, axis))
    return pictures


def _snapshot(shot: Snapshot, axis: Axis) -> str:
    rows = shot.chances[axis].flatten(1)
    said = [
        f"block {block}: mean {float(row.mean()):.3f}, lowest {float(row.min()):.3f}, highest {float(row.max()):.3f}"
        for block, row in enumerate(rows)
    ]
    title = f"{_UNITS[axis]}, step {shot.step:,}"
    return figure(cells_picture(title, grouped(rows), unit=_UNITS[axis], said=said), text(title))


def _kept(source: ModelShape, run: RunFacts, axis: Axis) -> str:
    assert run.cut is not None
    units = source.query_heads if axis is Axis.QUERY_HEADS else source.units(axis)
    rows, stay = torch.zeros(source.layers, units), set(run.cut.kept[Axis.LAYERS].tolist())
    for block, indices in enumerate(run.cut.kept[axis]):
        if block in stay:
            rows[block, indices] = 1.0
    said = [
        f"block {block}: {int(row.sum())} of {units} stay" if block in stay else f"block {block}: removed"
        for block, row in enumerate(rows)
    ]
    title = f"{_UNITS[axis]} that stay"
    return figure(cells_picture(title, grouped(rows), unit=_UNITS[axis], said=said), text(title))


def _figures(run: RunFacts) -> str:
    rows = [
        (axis_words(axis.value), shot.step, _mean(values), float(values.min()), float(values.max()))
        for shot in run.gates
        for axis, values in shot.chances.items()
    ]
    heads = ("axis", "step", "mean", "lowest", "highest")
    return figures(heads, rows, name=f"keep probabilities of {run.name}")


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
