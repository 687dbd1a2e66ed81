"""What the files of a run's directory say of it: those of a run that goes on, that failed, or that was copied."""

import csv
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from shear_lit.commands.run_tables import tables_of
from shear_lit.data.order.mixture_log import MIXTURE_LOG, read_mixture_log
from shear_lit.disk.names import is_elsewhere
from shear_lit.disk.reading import read_json, read_small, read_yaml
from shear_lit.mistakes import Mistake
from shear_lit.pruning.artefact import gates_in, read_kept
from shear_lit.pruning.carve import KeptUnits, kept_units
from shear_lit.pruning.starts import ranked_gates
from shear_lit.ranking.scores import Scores, read_scores_and_more
from shear_lit.reporting.run_page.facts import Cut, PlainTable, RunFacts, Series, Snapshot
from shear_lit.theory.shape import Axis, ModelShape, TargetShape
from shear_lit.training.run_files import CONFIG, GATES_FOLDER, METRICS, PROVENANCE
from shear_lit.training.run_mark import is_marked

_EXPORT = "hf"
_PAGES = ("repair.md", "compare.md")
_GATES = re.compile(r"step=(\d{1,12})\.safetensors")
_LARGEST, _LONGEST_NAME, _MOST_NAMES = 1e30, 200, 4096
"""What numbers, their names, and how many of those are drawn at most."""
_DEEPEST = 30
"""Settings below each other, at most."""
_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


class RunReadError(Mistake):
    """A directory that is none of a run."""


@dataclass
class _Reader:
    """Reads files of one directory, and keeps a note of every one that it cannot use."""

    directory: Path
    notes: list[str] = field(default_factory=list)

    def read(self, name: str, how: Callable[[Path], _Found]) -> _Found | None:
        """What a file holds; None where it is not there, or cannot be used, which is noted."""
        path = self.directory / name
        if not path.is_file() and not path.is_symlink():
            return None
        if is_elsewhere(path, self.directory):
            self.note(f"{name} is a link that leads out of the run's directory, and is not read.")
            return None
        try:
            return how(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.note(f"{name} cannot be used: {' '.join(str(error).split()) or type(error).__name__}")
            return None

    def note(self, said: str) -> None:
        self.notes.append(said)
        _log.warning("WARNING: %s: %s", self.directory, said)


def check_run(place: Path, *, key: str) -> None:
    """Refuse what is no directory of a run.

    Raises:
        RunReadError: it has neither a config nor metrics.
    """
    if (place / CONFIG).is_file() or (place / METRICS).is_file():
        return
    what = "holds neither" if place.is_dir() else "is no directory, so that it holds neither"
    raise RunReadError(
        f"{str(place)!r} {what} a {CONFIG} nor a {METRICS}: the directory of a run is expected, which is "
        f"trainer.default_root_dir of `shear-lit fit`. Correct the path.",
        key=key,
    )


def read_run(place: Path, *, export: Path | None = None, pages: tuple[Path, ...] = ()) -> RunFacts:
    """What the files of a run say; ``export`` and ``pages`` are further ones that lie elsewhere."""
    reader = _Reader(place)
    known = _history(reader)
    log = reader.read(MIXTURE_LOG, read_mixture_log)
    shots, scores = _snapshots(reader)
    cut = _exported(reader, export) or (_cut_now(known.config, known.series, scores) if scores else None)
    source = scores.origin.source_shape if scores else None
    if cut is not None and source is None:
        cut, source = None, None
    return replace(
        known,
        mixture=() if log is None else tuple((each.step, each.weights) for each in log.updates),
        gates=shots,
        source_shape=source,
        cut=cut,
        tables=tuple(_tables(reader, pages)),
        notes=tuple(reader.notes),
    )


def read_history(place: Path) -> RunFacts:
    """Config, numbers and provenance of a run alone, which are small."""
    reader = _Reader(place)
    return replace(_history(reader), notes=tuple(reader.notes))


def _history(reader: _Reader) -> RunFacts:
    place = reader.directory
    config = reader.read(CONFIG, _settings) or {}
    series, unreadable = reader.read(METRICS, _series) or ({}, 0)
    if unreadable:
        reader.note(
            f"{unreadable} lines of {METRICS} hold no finite number below {_LARGEST:g}, or are of more than "
            f"{_MOST_NAMES} names, and are not shown."
        )
    state, ended = _state(place, config, series)
    return RunFacts(
        name=place.name or str(place),
        state=state,
        ended=ended,
        config=config,
        series=series,
        provenance=reader.read(PROVENANCE, _provenance) or {},
        starts=max(1, len(list(place.glob("provenance*.json")))),
    )


def _settings(path: Path) -> Mapping[str, Any]:
    found = read_yaml(path)
    if not isinstance(found, Mapping):
        raise ValueError("it holds no keys")
    if _depth(found) > _DEEPEST:
        raise ValueError("it is nested too deeply")
    return found


def _depth(settings: Any) -> int:
    """How many mappings lie in each other."""
    deepest, waiting = 0, [(settings, 1)]
    while waiting and deepest <= _DEEPEST:
        value, depth = waiting.pop()
        if isinstance(value, Mapping):
            deepest = max(deepest, depth)
            waiting += [(inner, depth + 1) for inner in value.values()]
    return deepest


def _provenance(path: Path) -> dict[str, Any]:
    """What the file says, as far as it is what this package writes."""
    found = read_json(path)
    if not isinstance(found, dict) or not all(
        isinstance(found.get(n, {}), dict) for n in ("source", "packages")
    ):
        raise ValueError("it is no mapping, or its source or packages are none")
    return found


def _series(path: Path) -> tuple[dict[str, Series], int]:
    """The numbers by name, and how many lines hold none; the last line of a run that goes on may be half written."""
    text = read_small(path).decode("utf-8")
    whole = text if text.endswith("\n") else text[: text.rfind("\n") + 1]
    found: dict[str, dict[int, float]] = {}
    bad = 0
    try:
        rows = list(csv.reader(io.StringIO(whole)))[1:]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    for row in rows:
        try:
            step, name, value = int(row[0]), row[1], float(row[2])
        except (IndexError, ValueError):
            bad += 1
            continue
        known = name in found or (len(found) < _MOST_NAMES and len(name) <= _LONGEST_NAME)
        if known and abs(value) <= _LARGEST and 0 <= step < 1 << 60:  # false of what is no number
            found.setdefault(name, {})[step] = value
        else:
            bad += 1
    return {name: tuple(sorted(points.items())) for name, points in found.items()}, bad


def _snapshots(reader: _Reader) -> tuple[tuple[Snapshot, ...], Scores | None]:
    """The gates at the start, in the middle and at the end, and what the last of them order."""
    named = (_GATES.fullmatch(path.name) for path in (reader.directory / GATES_FOLDER).glob("step=*"))
    steps = sorted(int(match[1]) for match in named if match)
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    shots, last = [], None
    for step in chosen:
        found = reader.read(f"{GATES_FOLDER}/step={step:06d}.safetensors", _gates)
        if found is None:
            continue
        last, tensors = found
        shots.append(Snapshot(step=step, chances=_chances(last, tensors)))
    return tuple(shots), last


def _gates(path: Path) -> tuple[Scores, dict[str, Tensor]]:
    scores, tensors = read_scores_and_more(str(path))
    for axis, rows in _chances(scores, tensors).items():
        fits = rows.is_floating_point() and tuple(rows.shape) == scores.origin.source_shape.gate_shape(axis)
        if not fits or not bool(((rows >= 0) & (rows <= 1)).all()):
            raise ValueError(f"the probabilities of {axis.value} are none, or not those of its units")
    return scores, tensors


def _chances(scores: Scores, tensors: Mapping[str, Tensor]) -> dict[Axis, Tensor]:
    names = {axis: f"probability.{axis.value}" for axis in scores.importance}
    return {axis: tensors[name] for axis, name in names.items() if name in tensors}


def _exported(reader: _Reader, export: Path | None) -> Cut | None:
    """The units that an export keeps: the run's own in ``hf``, or the one that is named."""
    place = export or reader.directory / _EXPORT
    inside = _Reader(place, reader.notes)
    kept = inside.read(gates_in(place).name, lambda path: read_kept(str(path)))
    return None if kept is None else cut_of(kept, f"The units that the export in {place.name}/ keeps.")


def _cut_now(config: Mapping[str, Any], series: Mapping[str, Series], scores: Scores) -> Cut | None:
    """The units that a cut at the target would keep now; None where no file says what the target is."""
    source = scores.origin.source_shape
    model = config.get("model")
    pruning = model.get("pruning") if isinstance(model, Mapping) else None
    asked = pruning.get("target") if isinstance(pruning, Mapping) else None
    try:
        if isinstance(asked, Mapping):
            shape = TargetShape(**{name: size for name, size in asked.items() if size is not None}).completed(
                source
            )
        else:
            shape = _shape_in(series, source)
        kept = kept_units(ranked_gates(scores.importance, source, shape), source)
    except (Mistake, TypeError, KeyError):
        return None
    return cut_of(kept, "The units that an export would keep, by the gates that were written last.")


def _shape_in(series: Mapping[str, Series], source: ModelShape) -> ModelShape:
    """The sizes that the schedule asked for at last."""
    sizes = {
        axis.value: round(series[f"size/{axis.value}/target"][-1][1])
        for axis in Axis
        if series.get(f"size/{axis.value}/target")
    }
    heads = sizes.get(Axis.KV_HEADS.value, source.kv_heads) * sizes.pop(
        Axis.QUERY_HEADS.value, source.queries_per_group
    )
    return ModelShape(**{**source.to_dict(), **sizes, Axis.QUERY_HEADS.value: heads})


def cut_of(kept: KeptUnits, meaning: str) -> Cut:
    """The units of a cut for a page; ``meaning`` says which cut it is."""
    return Cut(shape=kept.shape, kept={axis: getattr(kept, axis.value) for axis in Axis}, meaning=meaning)


def _tables(reader: _Reader, pages: tuple[Path, ...]) -> Iterator[PlainTable]:
    staged = sorted(path.name for path in reader.directory.glob("repair-stage=*.md"))
    for name in (*_PAGES, *staged):
        yield from reader.read(name, _markdown) or ()
    for path in pages:
        yield from _Reader(path.parent, reader.notes).read(path.name, _markdown) or ()


def _markdown(path: Path) -> list[PlainTable]:
    return tables_of(read_small(path).decode("utf-8"))


def _state(place: Path, config: Mapping[str, Any], series: Mapping[str, Series]) -> tuple[str, bool]:
    trainer = config.get("trainer")
    steps = trainer.get("max_steps") if isinstance(trainer, Mapping) else None
    last = max((points[-1][0] for points in series.values() if points), default=0)
    if isinstance(steps, int) and 0 < steps <= last:
        return "it has ended", True
    if is_marked(place):
        return "it goes on", False
    return (
        "it stopped before its end: `shear-lit fit --config RUN/config.yaml --ckpt_path auto` goes on with it",
        False,
    )
