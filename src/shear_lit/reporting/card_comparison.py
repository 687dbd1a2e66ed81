"""The comparison in a model card, which is measured after the card was written."""

import re

_BEGIN, _END = "<!-- shear-lit compare -->", "<!-- end of shear-lit compare -->"
_HEAD = "## Comparison"
_BEFORE = re.compile(r"^## (?:Made again|Verified when it was written)$", flags=re.MULTILINE)
"""What follows it in a card of ours."""


def with_comparison(card: str, comparison: str) -> str:
    """The card with a comparison in the place of the one that it has; all else stays, as somebody may have changed it.

    ``comparison`` are sections in Markdown without a title of their own.
    """
    section = f"{_BEGIN}\n{_HEAD}\n\n{comparison.strip()}\n{_END}"
    start, end = card.find(_BEGIN), card.find(_END)
    if 0 <= start < end:
        return f"{card[:start]}{section}{card[end + len(_END) :]}"
    if found := _BEFORE.search(card):
        return f"{card[: found.start()]}{section}\n\n{card[found.start() :]}"
    return f"{card.rstrip()}\n\n{section}\n"


def comparison_in(card: str) -> str | None:
    """The comparison that a card has; None where it has none."""
    start, end = card.find(_BEGIN), card.find(_END)
    if not 0 <= start < end:
        return None
    return card[start + len(_BEGIN) : end].strip().removeprefix(_HEAD).strip()
