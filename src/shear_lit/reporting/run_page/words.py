"""What is said of a run in words and tables: what was done, how runs differ, where all of it comes from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from shear_lit.progress import duration
from shear_lit.reporting.run_page.facts import RunFacts
from shear_lit.reporting.run_page.markup import axis_words, figures, number, section, table, text
from shear_lit.reporting.run_page.training_sections import mean_loss

_ABSENT = "-"


def done(runs: Sequence[RunFacts]) -> str:
    """What every run did, in three sentences, and what of it could not be read."""
    parts = []
    for run in runs:
        heading = f"<h2>{text(run.name)}</h2>" if len(runs) > 1 else ""
        notes = "".join(f"<li>{text(note)}</li>" for note in run.notes)
        said = f'<ul class="notes">{notes}</ul>' if notes else ""
        parts.append(
            f"<div>{heading}<p>{text(_what(run))} {text(_how_far(run))} {text(_result(run))}</p>{said}</div>"
        )
    return f'<div class="grid">{"".join(parts)}</div>' if len(parts) > 1 else parts[0]


def told(runs: Sequence[RunFacts]) -> str:
    """Ranking, repair, comparisons and samples of text, as far as they were written."""
    parts = []
    for run in runs:
        of = f"{run.name}: " if len(runs) > 1 else ""
        if ranked := _ranking(run):
            parts.append(section(f"{of}Ranking", f"<p>{text(ranked)}</p>"))
        for found in run.tables:
            said = f"<p>{text(found.said)}</p>" if found.said else ""
            long = len(found.rows) > 20
            shown = (figures if long else table)(found.heads, found.rows, name=found.title)
            parts.append(section(f"{of}{found.title}", said, shown))
    return "".join(parts)


def difference(runs: Sequence[RunFacts]) -> str:
    """The settings in which two runs differ."""
    if len(runs) < 2:
        return ""
    first, second = (flat(run.config) for run in runs)
    keys = sorted(first.keys() | second.keys())
    groups = [
        key for key in keys if any(other.startswith(f"{key}.") for other in keys)
    ]  # null in one of them
    rows = [
        (key, *(_set(key, settings) for settings in (first, second)))
        for key in keys
        if first.get(key, _ABSENT) != second.get(key, _ABSENT)
        and not any(key.startswith(f"{group}.") for group in groups)
    ]
    if not rows:
        return section("Settings that differ", "<p>None.</p>")
    heads = ("key", *(run.name for run in runs))
    return section("Settings that differ", table(heads, rows, name="Settings that differ"))


def provenance(runs: Sequence[RunFacts]) -> str:
    """Command, versions, commit, fingerprints, and the whole config."""
    parts = []
    for run in runs:
        of = f"{run.name}: " if len(runs) > 1 else ""
        rows = list(_origin(run))
        settings = [(key, value) for key, value in flat(run.config).items()]
        parts += [
            table(("what", "found"), rows, name=f"{of}provenance"),
            figures(("key", "value"), settings, name=f"{of}settings") if settings else "",
        ]
    return section("Provenance", *parts)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested settings by key with dots, as text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{key}.")
        else:
            found[key] = (
                "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            )
    return found


def _set(key: str, settings: Mapping[str, str]) -> str:
    below = sum(other.startswith(f"{key}.") for other in settings)
    return f"{below} settings" if below else settings.get(key, _ABSENT)


def _what(run: RunFacts) -> str:
    source = _short(
        str(run.setting("model.source") or run.provenance.get("source", {}).get("name") or "a model")
    )
    taught = " It learned from a frozen model, too." if run.setting("model.distillation") else ""
    if run.setting("model.pruning") is None:
        return f"This run trained {source} without pruning it.{taught}"
    shape = ""
    if run.cut is not None and run.source_shape is not None:
        before, after = run.source_shape.to_dict(), run.cut.shape.to_dict()
        shape = "; " + ", ".join(
            f"{axis_words(axis)} {before[axis]:,} to {after[axis]:,}"
            for axis in before
            if before[axis] != after[axis]
        )
    return f"This run pruned {source} with gates that learn together with the weights{shape}.{taught}"


def _short(source: str) -> str:
    """A model's name; of a directory whose whole path is given, the last part. Provenance has all of it."""
    return PurePath(source).name or source if source.startswith(("/", "~", ".")) else source


def _how_far(run: RunFacts) -> str:
    tokens, seconds = (run.series.get(f"run/{name}", ()) for name in ("tokens", "device_seconds"))
    amount = f" on {number(tokens[-1][1])} tokens" if tokens else ""
    time = f", in {duration(seconds[-1][1])} of its devices" if seconds else ""
    domains = (
        f" of {len(run.domains)} domain{'s' * (len(run.domains) != 1)}" if run.domains and tokens else ""
    )
    steps = f"{run.last_step:,} of {run.steps or 'an unknown number of'} steps"
    return f"It took {steps}{amount}{domains}{time}; {run.state}."


def _result(run: RunFacts) -> str:
    mean = mean_loss(run)
    if not mean:
        return "No validation loss was reported."
    reached = [
        domain
        for domain in run.domains
        if (lags := run.series.get(f"loss/lag/{domain}", ())) and lags[-1][1] <= 0
    ]
    known = any(run.reference(domain) is not None for domain in run.domains)
    behind = f"; {len(reached)} of {len(run.domains)} domains reached their reference" if known else ""
    if len(mean) == 1:
        return f"The mean validation loss was {mean[0][1]:.4f} nats per token at step {mean[0][0]:,}{behind}."
    return (
        f"The mean validation loss went from {mean[0][1]:.4f} to {mean[-1][1]:.4f} nats per token "
        f"(steps {mean[0][0]:,} to {mean[-1][0]:,}){behind}."
    )


def _ranking(run: RunFacts) -> str:
    scores = run.setting("model.pruning.initial_scores")
    ranking = run.setting("model.pruning.ranking")
    if scores:
        return f"Gates began in the order of the scores in {scores}; its page lies beside them."
    sequences = run.setting("model.pruning.calibration_sequences")
    if ranking and run.setting("model.pruning.initial_gap"):
        return (
            f"Gates began in the order of {ranking}, measured on {sequences} sequences before the first step."
        )
    return ""


def _origin(run: RunFacts) -> Iterator[tuple[str, str]]:
    facts = run.provenance
    source = facts.get("source", {})
    yield "command", "shear-lit fit --config config.yaml (the settings below)"
    yield "begun or resumed", f"{run.starts} time{'s' * (run.starts != 1)}"
    for name, value in (
        ("source", source.get("name")),
        ("source fingerprint", source.get("fingerprint")),
        ("source commit", source.get("commit")),
        ("data fingerprint", facts.get("data")),
        ("commit of the code", facts.get("commit")),
        ("processes", facts.get("world_size")),
        ("strategy", facts.get("strategy")),
        ("Python", facts.get("python")),
    ):
        if value is not None:
            yield name, str(value)
    for package, version in facts.get("packages", {}).items():
        yield package, str(version)
