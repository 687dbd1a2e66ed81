"""Tables: in Markdown, which reads well as it is, too, and drawn for a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its title, and what has to be said below it."""

    title: str
    """Its title."""
    header: tuple[str, ...]
    """What stands above the columns."""
    rows: tuple[tuple[str, ...], ...]
    """The cells, row by row."""
    note: str = ""
    """What is said below it."""

    def in_markdown(self, level: int = 2) -> str:
        """The table with a title of this level."""
        parts = [f"{'#' * level} {self.title}", markdown_table(self.header, self.rows), self.note]
        return "\n\n".join(part for part in parts if part)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as it is, too: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'-' * (widths[0] + 2)}|" + "".join(f"{'-' * (width + 1)}:|" for width in widths[1:])
    return "\n".join([line(header), rule, *map(line, rows)])


def drawn(tables: Sequence[Table], *, width: int | None = None) -> str:
    """The tables for a terminal, as wide as it is; cells that are too long go on in the next line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Drawing
    from rich.text import Text

    console = Console(width=width)
    with console.capture() as captured:
        for table in tables:
            console.print(Text(table.title, style="bold"))
            drawing = Drawing(box=box.SIMPLE_HEAD)
            for number, head in enumerate(table.header):
                drawing.add_column(Text(head), justify="right" if number else "left", overflow="fold")
            for row in table.rows:
                drawing.add_row(*map(Text, row))
            console.print(drawing)
            if table.note:
                console.print(Text(table.note, style="dim"))
            console.print()
    return captured.get().rstrip("\n")
