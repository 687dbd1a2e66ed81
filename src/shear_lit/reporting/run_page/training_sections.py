"""What a run reported while it trained: losses, mixture, sizes, multipliers, speed."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from shear_lit.reporting.run_page.drawing import COLOURS
from shear_lit.reporting.run_page.facts import RunFacts, Series
from shear_lit.reporting.run_page.lines import Line, area_chart, line_chart
from shear_lit.reporting.run_page.markup import axis_words, few, figure, figures, grid, section, text
from shear_lit.reporting.run_page.scales import Range, range_of, steps_of

_ROWS = 12
"""Steps of a folded table at most."""
_PICTURED = 60
"""Domains with a picture of their own at most."""
_GROWING = ("run/tokens", "run/device_seconds")
_OF_TRAINING = {
    "loss/language": "cross-entropy with the text",
    "loss/divergence": "divergence from the teacher",
    "loss/layers": "distance of streams",
    "loss/gates": "objective of the gates",
    "loss/size_penalty": "size penalty",
}
_OF_MACHINE = {
    "speed/tokens_per_second": "tokens per second",
    "memory/peak_gib": "peak memory, GiB",
    "speed/seconds_waiting_for_data": "seconds waiting for data, since the last report",
    "gradient/norm": "norm of the gradient",
}


def losses(runs: Sequence[RunFacts]) -> str:
    """Losses while training, their mean on validation text, and those of every domain with its reference."""
    x = _steps(runs)
    whole = [
        _chart(runs, x, f"{title} (nats per token)", [name])
        for name, title in _OF_TRAINING.items()
        if name != "loss/size_penalty"
    ]
    mean = _chart(
        runs, x, "mean of the domains on validation text (nats per token)", ["loss/validation/mean"]
    )
    domains = list(dict.fromkeys(domain for run in runs for domain in run.domains))
    return section(
        "Losses",
        grid(filter(None, [mean, *whole])),
        _by_domain(runs, domains, x),
        _figures(runs, "losses", lambda name: name in _OF_TRAINING or name.startswith("loss/validation/")),
    )


def mixture(runs: Sequence[RunFacts]) -> str:
    """The mixture over time as areas, in the order of the last weights."""
    x = _steps(runs)
    parts = []
    for run in runs:
        if not run.mixture:
            continue
        names = list(run.domains)
        changes = run.mixture
        if len(names) > COLOURS:
            names, changes = _with_others(names, changes)
        picture = area_chart(f"mixture of {run.name}", changes, names, x)
        parts.append(figure(picture, _of(run, runs, "share of the sequences that are drawn, by domain")))
    tables = [
        figures(
            ("step", *run.domains),
            [
                (step, *(f"{shares[domain]:.4f}" for domain in run.domains))
                for step, shares in few(run.mixture, _ROWS)
            ],
            name=_of(run, runs, "mixture"),
        )
        for run in runs
        if run.mixture
    ]
    return section("Mixture", grid(parts), *tables)


def sizes(runs: Sequence[RunFacts]) -> str:
    """Expected sizes against what the schedule asks for, and the multipliers that hold them to it."""
    x = _steps(runs)
    axes = list(
        dict.fromkeys(
            name.partition("/")[0]
            for run in runs
            for name in run.below("size/")
            if name.endswith("/expected")
        )
    )
    charts = [
        _chart(
            runs,
            x,
            axis_words(axis),
            [f"size/{axis}/expected", f"size/{axis}/target"],
            labels=("expected", "asked for"),
            at_zero=True,
        )
        for axis in axes
    ]
    prices = [
        _chart(
            runs,
            x,
            f"multipliers of {axis_words(axis)}",
            [f"multipliers/{axis}/first", f"multipliers/{axis}/second"],
            labels=("first", "second"),
        )
        for axis in axes
    ]
    penalty = _chart(runs, x, _OF_TRAINING["loss/size_penalty"], ["loss/size_penalty"])
    return section(
        "Sizes",
        grid(charts),
        _figures(runs, "sizes", lambda name: name.startswith("size/")),
    ) + section(
        "Multipliers",
        grid(filter(None, [*prices, penalty])),
        _figures(
            runs, "multipliers", lambda name: name.startswith("multipliers/") or name == "loss/size_penalty"
        ),
    )


def machine(runs: Sequence[RunFacts]) -> str:
    """Speed, memory, and waiting for data."""
    x = _steps(runs)
    charts = [
        _chart(runs, x, title, [name], at_zero=name != "gradient/norm") for name, title in _OF_MACHINE.items()
    ]
    known = (*_OF_MACHINE, *_GROWING)
    return section(
        "Speed and memory",
        grid(filter(None, charts)),
        _figures(runs, "speed and memory", lambda name: name in known),
    )


def others(runs: Sequence[RunFacts]) -> str:
    """Every other number of the run, at its first and its last step."""
    shown = ("loss/", "size/", "multipliers/", "mixture/weight/", *_OF_MACHINE, *_GROWING)
    parts = [
        figures(
            ("name", "first step", "value", "last step", "value"),
            [
                (name, points[0][0], points[0][1], points[-1][0], points[-1][1])
                for name, points in run.series.items()
                if points and not name.startswith(shown)
            ],
            name=_of(run, runs, "everything else that was reported"),
        )
        for run in runs
        if any(not name.startswith(shown) for name in run.series)
    ]
    return section("Other numbers", *parts)


def _by_domain(runs: Sequence[RunFacts], domains: Sequence[str], x: Range) -> str:
    """A small picture for each domain, all with one scale."""
    found = {domain: [run.series.get(f"loss/validation/{domain}", ()) for run in runs] for domain in domains}
    references = {domain: [run.reference(domain) for run in runs] for domain in domains}
    y = range_of(
        [
            *(value for each in found.values() for points in each for _, value in points),
            *(value for each in references.values() for value in each if value is not None),
        ]
    )
    parts = []
    for domain in domains[:_PICTURED]:
        lines = []
        for index, run in enumerate(runs):
            points, reference = found[domain][index], references[domain][index]
            if points:
                label = run.name if len(runs) > 1 else "loss"
                lines.append(Line(label=label, points=points, colour=index))
            if reference is not None:
                level = [(0.0, reference), (x.high, reference)]
                lines.append(
                    Line(
                        label=_of(run, runs, "reference", plain=True), points=level, colour=index, dashed=True
                    )
                )
        if lines:
            parts.append(
                figure(
                    line_chart(f"loss on {domain}", lines, x, y),
                    text(domain),
                )
            )
    said = "<p>Losses by domain on validation text, nats per token, on one scale; dashed: the reference.</p>"
    if len(domains) > _PICTURED:
        said += f"<p>The first {_PICTURED} of {len(domains)} domains; all of them are under Figures.</p>"
    return said + grid(parts) if parts else ""


def _chart(
    runs: Sequence[RunFacts],
    x: Range,
    title: str,
    names: Sequence[str],
    *,
    labels: Sequence[str] = (),
    at_zero: bool = False,
) -> str:
    """One picture of one or two numbers of every run; empty where none has them. The second number is dashed."""
    lines = [
        Line(
            label=_of(run, runs, labels[place], plain=True) if labels else run.name,
            points=run.series[name],
            colour=index,
            dashed=place == 1,
        )
        for index, run in enumerate(runs)
        for place, name in enumerate(names)
        if run.series.get(name)
    ]
    if not lines:
        return ""
    y = range_of((value for line in lines for _, value in line.points), at_zero=at_zero)
    return figure(line_chart(title, lines, x, y), text(title))


def _figures(runs: Sequence[RunFacts], title: str, wanted: Callable[[str], bool]) -> str:
    parts = []
    for run in runs:
        found = {name: dict(points) for name, points in run.series.items() if points and wanted(name)}
        if not found:
            continue
        steps = sorted({step for points in found.values() for step in points})
        chosen = few(steps, _ROWS)
        rows = [(name, *(points.get(step, "") for step in chosen)) for name, points in found.items()]
        parts.append(
            figures(("at step", *(f"{s:,}" for s in chosen)), rows, name=_of(run, runs, title, plain=True))
        )
    return "".join(parts)


def _steps(runs: Iterable[RunFacts]) -> Range:
    return steps_of(run.last_step for run in runs)


def _of(run: RunFacts, runs: Sequence[RunFacts], said: str, *, plain: bool = False) -> str:
    """What is said, with the run that it is of where there are two; as HTML unless ``plain``."""
    words = f"{run.name}: {said}" if len(runs) > 1 else said
    return words if plain else text(words)


def _with_others(
    names: Sequence[str], changes: Sequence[tuple[int, Mapping[str, float]]]
) -> tuple[list[str], tuple[tuple[int, Mapping[str, float]], ...]]:
    """The largest domains, and all others as one."""
    first = list(names[: COLOURS - 1])
    rest = f"{len(names) - len(first)} others"
    merged = tuple(
        (
            step,
            {
                **{name: shares[name] for name in first},
                rest: max(0.0, 1 - sum(shares[name] for name in first)),
            },
        )
        for step, shares in changes
    )
    return [*first, rest], merged


def mean_loss(run: RunFacts) -> Series:
    """Mean of the domains' losses on validation text."""
    return run.series.get("loss/validation/mean", ())
