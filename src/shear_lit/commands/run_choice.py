"""The runs that a page is of: those that are named, or both stages of a demo."""

from collections.abc import Sequence
from pathlib import Path

from shear_lit.commands.demo.names import REPORT
from shear_lit.commands.run_reading import check_run, read_run
from shear_lit.reporting.run_page.facts import RunFacts
from shear_lit.training.run_files import CONFIG

_STAGES = ("prune", "continue")


def read_runs(places: Sequence[tuple[Path, str]]) -> list[RunFacts]:
    """The facts of each run; ``places`` are directories with the keys that named them.

    Raises:
        RunReadError: one is no directory of a run.
    """
    if len(places) == 1 and (stages := _stages_of_demo(places[0][0])):
        return stages
    for place, key in places:
        check_run(place, key=key)
    return [read_run(place) for place, _ in places]


def _stages_of_demo(place: Path) -> list[RunFacts]:
    """Both stages of a demo, as far as it came, with its comparison and its samples; none where it is no demo."""
    stages = [place / name for name in _STAGES if (place / name / CONFIG).is_file()]
    if not stages or (place / CONFIG).is_file():
        return []
    pages = (place / REPORT,)
    return [
        read_run(
            stage,
            export=place / "models" / "pruned" if stage.name == _STAGES[0] else None,
            pages=pages if stage is stages[-1] else (),
        )
        for stage in stages
    ]
