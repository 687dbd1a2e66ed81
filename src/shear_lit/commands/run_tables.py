"""Tables of Markdown pages that lie in a run's directory, as this package writes them."""

import re

from shear_lit.reporting.run_page.facts import PlainTable

_SAMPLE = re.compile(r"- ([^:`]+): (.*)")
_MOST_ROWS = 500
_SAMPLES = "What each writes"
"""How the heading of texts that models wrote begins."""


def tables_of(markdown: str) -> list[PlainTable]:
    """Every table with the heading above it and what is said between them, and texts that models wrote."""
    found: list[PlainTable] = []
    title, said, rows = "", "", list[list[str]]()
    for line in [*markdown.splitlines(), "# "]:
        if line.startswith("|"):
            rows.append(_cells(line))
            continue
        if len(rows) > 2:
            shown = rows[: _MOST_ROWS + 2]
            left = f" The first {_MOST_ROWS} of {len(rows) - 2} rows." if len(shown) < len(rows) else ""
            found.append(PlainTable(title=title, heads=_row(rows[0]), rows=_rows(shown), said=said + left))
        rows = []
        if line.startswith("#"):
            title, said = line.lstrip("# "), ""
        elif title.startswith(_SAMPLES) and (sample := _SAMPLE.fullmatch(line)):
            found.append(PlainTable(title=title, heads=("model", "text"), rows=((sample[1], sample[2]),)))
        elif line and not line.startswith("-"):
            said = line.replace("`", "")
    return _joined(found)


def _joined(tables: list[PlainTable]) -> list[PlainTable]:
    """Texts under one heading are rows of one table."""
    found: list[PlainTable] = []
    for each in tables:
        if found and each.title.startswith(_SAMPLES) and found[-1].title == each.title:
            last = found.pop()
            each = PlainTable(title=each.title, heads=each.heads, rows=(*last.rows, *each.rows))
        found.append(each)
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _row(cells: list[str]) -> tuple[str, ...]:
    return tuple(cell.replace("`", "") for cell in cells)


def _rows(lines: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(_row(cells) for cells in lines[2:] if len(cells) == len(lines[0]))
