"""The page of one run or two: all pictures are in it, no script, and nothing that a network would have to bring."""

from collections.abc import Sequence

from shear_lit.reporting.run_page.facts import RunFacts
from shear_lit.reporting.run_page.gate_sections import gates, shapes
from shear_lit.reporting.run_page.markup import text
from shear_lit.reporting.run_page.style import PAGE_STYLE
from shear_lit.reporting.run_page.training_sections import losses, machine, mixture, others, sizes
from shear_lit.reporting.run_page.words import difference, done, provenance, told


def run_page(runs: Sequence[RunFacts], *, refresh_seconds: int = 0) -> str:
    """The page, in HTML; it loads itself again every ``refresh_seconds``, if there are any.

    Two runs share their axes.
    """
    names = " and ".join(run.name for run in runs)
    parts = [
        f"<h1>{text(names)}</h1>",
        done(runs),
        losses(runs),
        mixture(runs),
        sizes(runs),
        gates(runs),
        shapes(runs),
        told(runs),
        machine(runs),
        others(runs),
        difference(runs),
        provenance(runs),
    ]
    refresh = f'<meta http-equiv="refresh" content="{refresh_seconds}">' if refresh_seconds else ""
    content = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">{refresh}\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{text(names)}</title>\n<style>{PAGE_STYLE}</style></head>\n<body><main>\n{content}\n"
        f"<footer>Written by <code>shear-lit report</code>. Point at a line, an area or a row to read its figures."
        f"</footer>\n</main></body>\n</html>\n"
    )


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
