"""The tables of docs/trainer.md, from those of the code; ``python -m tests.training.trainer_page`` writes them."""

from pathlib import Path

from shear_lit.training.shipped import CALLBACKS, LOGGERS, Standing
from shear_lit.training.trainer_settings import KEYS

PAGE = Path(__file__).parents[2] / "docs" / "trainer.md"
TABLES = {"Key": KEYS, "Callback": CALLBACKS, "Logger": LOGGERS}
STANDINGS = {
    Standing.WORKS: "works",
    Standing.MEANS: "means this",
    Standing.REFUSED: "refused",
    Standing.UNTRIED: "untried",
}


def table(head: str) -> str:
    """One of the tables, as it stands in the page."""
    rows = [f"| {head} | | What it does here, or why not and what to use |", "|---|---|---|"]
    for name, entry in TABLES[head].items():
        says = f"{entry.says[0].upper()}{entry.says[1:].rstrip('.')}."
        rows.append(f"| `{name}` | {STANDINGS[entry.standing]} | {says} |")
    return "\n".join(rows) + "\n"


def rewritten(page: str) -> str:
    """The page with its tables as the code has them."""
    for head in TABLES:
        before, found, after = page.partition(f"<!-- {head} -->\n")
        _, end, rest = after.partition(f"<!-- end of {head} -->")
        assert found and end, f"the page has no place for the table {head}"
        page = f"{before}{found}{table(head)}{end}{rest}"
    return page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
