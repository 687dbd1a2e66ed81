"""``shear-lit report``: a run, or two beside each other, as a page that opens from disk."""

from dataclasses import dataclass
from pathlib import Path

from shear_lit.commands.failures import UsageError
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_file, write_file

REPORT = "report.html"
"""The page's name in the directory of the run."""


@dataclass(frozen=True, kw_only=True)
class WrittenPage:
    """What the command says in the end."""

    path: Path
    """Where the page is."""

    def __str__(self) -> str:
        return f"{self.path}: open it in a browser"


def report(run: str, other: str | None = None, output: str | None = None) -> WrittenPage:
    """Write a page of what a run did: losses, mixture, sizes, gates, shape, speed, and where all of it comes from.

    It reads what lies in the run's directory and needs nothing else: a run that goes on, that failed, or that was
    copied from another machine.

    Args:
        run: Directory of a run, or of a demo.
        other: A second run, beside the first.
        output: File to write; null: report.html in the directory of the first run.
    """
    first = expanded(run)
    file = first / REPORT if output is None else expanded(output)
    places = [(first, "run"), *([] if other is None else [(expanded(other), "other")])]
    if len({place.resolve() for place, _ in places}) < len(places):
        raise UsageError(
            f"other={other}: it is the run itself, and two runs stand beside each other. Name another."
        )
    from shear_lit.commands.run_choice import read_runs

    check = [(place, key) for place, key in places]
    runs = read_runs(check)
    check_file(file, key="output")
    from shear_lit.reporting.run_page.page import run_page

    write_file(file, run_page(runs))
    return WrittenPage(path=file)
