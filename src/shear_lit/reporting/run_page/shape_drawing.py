"""A model before and after a cut, to scale: a bar for every block, as wide as what it has."""

from shear_lit.reporting.run_page.drawing import Drawing
from shear_lit.reporting.run_page.facts import Cut
from shear_lit.reporting.run_page.markup import text
from shear_lit.theory.shape import Axis, ModelShape

_WIDTH, _LEFT, _GAP = 360, 34, 8


def shape_drawing(source: ModelShape, cut: Cut, *, after: bool) -> Drawing:
    """The source with what is left of it marked, or (``after``) the cut model alone at the same scale."""
    layers = cut.kept[Axis.LAYERS].tolist()
    row = max(3.0, min(10.0, 300 / source.layers))
    room = _WIDTH - _LEFT - _GAP
    # A head has as many channels before as after, so that widths of heads and units compare with themselves.
    heads_room, units_room = room * 0.3, room * 0.7
    pointed: list[str] = []
    top, parts = 20.0, [_title(_LEFT, "heads"), _title(_LEFT + heads_room + _GAP, "feed-forward units")]
    blocks = layers if after else list(range(source.layers))
    kept_heads = cut.shape.query_heads / source.query_heads
    kept_units = cut.shape.intermediate / source.intermediate
    gap = max(1, round(14 / row + 0.49))
    for place, block in enumerate(blocks):
        y, stays = top + place * row, block in layers
        said = f"block {block}: removed"
        if stays:
            said = (
                f"block {block} becomes block {layers.index(block)}: {cut.shape.query_heads} of "
                f"{source.query_heads} heads, {cut.shape.intermediate:,} of {source.intermediate:,} units"
            )
        for x, width, share in (
            (_LEFT, heads_room, kept_heads),
            (_LEFT + heads_room + _GAP, units_room, kept_units),
        ):
            tall = f'y="{y:.1f}" height="{row - 1:.1f}"'
            if not after:
                parts.append(f'<rect class="gone" x="{x:.1f}" width="{width:.1f}" {tall}/>')
            if stays:
                parts.append(f'<rect class="stays" x="{x:.1f}" width="{width * share:.1f}" {tall}/>')
        pointed.append(
            f'<rect class="row" x="{_LEFT}" width="{room + _GAP}" y="{y:.1f}" height="{row:.1f}">'
            f"<title>{text(said)}</title></rect>"
        )
        if place % gap == 0:
            parts.append(f'<text x="{_LEFT - 5}" y="{y + row / 2 + 4:.1f}" text-anchor="end">{block}</text>')
    y = top + source.layers * row + 20
    parts.append(_title(_LEFT, "hidden size", y - 6))
    if not after:
        parts.append(f'<rect class="gone" x="{_LEFT}" y="{y:.1f}" width="{room + _GAP}" height="8"/>')
    width = (room + _GAP) * cut.shape.hidden / source.hidden
    parts.append(f'<rect class="stays" x="{_LEFT}" y="{y:.1f}" width="{width:.1f}" height="8"/>')
    name = "the model that is left" if after else "the source, with what is left of it"
    return Drawing(name=name, width=_WIDTH, height=y + 14, parts="".join(parts), pointed="".join(pointed))


def _title(x: float, said: str, y: float = 12.0) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{said}</text>'
