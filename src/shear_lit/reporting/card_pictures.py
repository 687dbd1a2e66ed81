"""The pictures of a model card: the shape before and after, and losses while the model was trained."""

from collections.abc import Mapping
from dataclasses import replace

from shear_lit.reporting.picture_file import picture_file
from shear_lit.reporting.run_page.drawing import COLOURS
from shear_lit.reporting.run_page.facts import Cut, Series
from shear_lit.reporting.run_page.lines import Line, line_chart
from shear_lit.reporting.run_page.scales import range_of, steps_of
from shear_lit.reporting.run_page.shape_drawing import shape_drawing
from shear_lit.theory.shape import ModelShape

SHAPE_PICTURE, LOSS_PICTURE = "shape.svg", "losses.svg"
"""Their names beside a model."""
_VALIDATION, _TRAINING = "loss/validation/", "loss/language"


def shape_picture_file(source: ModelShape, cut: Cut) -> str:
    """The source with what stays of it, and what is left."""
    return picture_file(
        "shape of the source and of this model",
        [
            ("the source; what stays is blue", shape_drawing(source, cut, after=False)),
            (
                "what is left, to the same scale; the numbers are blocks of the source",
                shape_drawing(source, cut, after=True),
            ),
        ],
    )


def loss_picture_file(series: Mapping[str, Series], references: Mapping[str, float]) -> str | None:
    """Losses while training, and by domain on validation text with their references; None where there are none.

    Of more domains than there are colours, their mean is shown.
    """
    x = steps_of(points[-1][0] for points in series.values() if points)
    domains = {
        name.removeprefix(_VALIDATION): points
        for name, points in series.items()
        if name.startswith(_VALIDATION) and points
    }
    mean = domains.pop("mean", ())
    if not domains or len(domains) > COLOURS:
        domains, references = ({"mean of the domains": mean} if mean else {}), {}
    lines = [Line(label=name, points=points, colour=n) for n, (name, points) in enumerate(domains.items())]
    lines += [
        Line(
            label=f"{name}: reference",
            points=[(0.0, references[name]), (x.high, references[name])],
            colour=n,
            dashed=True,
        )
        for n, name in enumerate(domains)
        if name in references
    ]
    charts = []
    if lines:
        y = range_of(value for line in lines for _, value in line.points)
        said = "losses on validation text, nats per token" + ("; dashed: the reference" if references else "")
        drawing = line_chart("losses on validation text", lines, x, y)
        named = tuple(each for each in drawing.legend if not each.dashed)
        charts.append((said, replace(drawing, legend=named)))
    if trained := series.get(_TRAINING):
        y = range_of(value for _, value in trained)
        line = Line(label="loss", points=trained)
        charts.append(
            (
                "cross-entropy with the text that it was trained on, nats per token",
                line_chart("loss", [line], x, y),
            )
        )
    return picture_file("losses", charts) if charts else None
