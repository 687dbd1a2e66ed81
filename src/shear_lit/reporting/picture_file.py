"""Drawings of the page as a file of its own, an SVG that hubs, readmes and editors show as an image.

An image knows nothing of the page that shows it: it brings its own paper, which is light, and its own style.
"""

import textwrap
from collections.abc import Sequence

from shear_lit.reporting.run_page.drawing import Drawing, Entry
from shear_lit.reporting.run_page.markup import text
from shear_lit.reporting.run_page.style import LIGHT, picture_style

_MARGIN, _GAP, _LINE = 12, 24, 15
_LETTER, _BOLD = 6.4, 8.0
"""Widths of a letter of a legend and of a caption, about."""
_SWATCH = 22


def picture_file(title: str, drawings: Sequence[tuple[str, Drawing]]) -> str:
    """Captioned drawings beside each other, as an SVG file that runs nothing and asks for nothing."""
    parts, left, lowest = [], float(_MARGIN), 0.0
    captions = [textwrap.wrap(caption, int(drawing.width / _BOLD)) for caption, drawing in drawings]
    top = _MARGIN + _LINE * max(map(len, captions)) + 4.0
    for lines, (_, drawing) in zip(captions, drawings, strict=True):
        parts += [
            f'<text class="caption" x="{left:g}" y="{_MARGIN + _LINE * (number + 0.7):g}">{text(line)}</text>'
            for number, line in enumerate(lines)
        ]
        parts.append(f'<g transform="translate({left:g} {top:g})">{drawing.parts}</g>')
        legend, height = _legend(drawing.legend, left, top + drawing.height + 4, drawing.width)
        parts.append(legend)
        lowest = max(lowest, top + drawing.height + height)
        left += drawing.width + _GAP
    width, height = left - _GAP + _MARGIN, lowest + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{text(title)}" width="{width:g}" '
        f'height="{height:.0f}" viewBox="0 0 {width:g} {height:.0f}">\n<title>{text(title)}</title>\n'
        f"<style>{picture_style()}.caption{{fill:{LIGHT['text']};font-size:12.5px;font-weight:600}}</style>\n"
        f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>\n{"".join(parts)}\n</svg>\n'
    )


def _legend(entries: Sequence[Entry], left: float, top: float, room: float) -> tuple[str, float]:
    """The entries in lines as wide as a drawing, and how high they are."""
    parts, x, row = [], 0.0, 0
    for each in entries:
        label = textwrap.shorten(each.label, 40, placeholder="…") or each.label[:40]
        wide = _SWATCH + _LETTER * len(label) + 12
        if x and x + wide > room:
            x, row = 0.0, row + 1
        middle = top + _LINE * (row + 0.5)
        parts.append(
            f'<line class="line {each.classes}" x1="{left + x:g}" x2="{left + x + 16:g}" y1="{middle:g}" '
            f'y2="{middle:g}"/><text x="{left + x + _SWATCH:g}" y="{middle + 4:g}">{text(label)}</text>'
        )
        x += wide
    return "".join(parts), _LINE * (row + 1.0) + 4 if entries else 0.0
