"""Pictures of many cells: one small PNG each, whose ink is as opaque as a cell's number is large.

So they look right on light and dark paper alike, and 80 blocks of 64 heads take a few hundred bytes.
"""

import base64
import struct
import zlib

import torch
from torch import Tensor

from shear_lit.reporting.run_page.drawing import Drawing
from shear_lit.reporting.run_page.markup import text

INK = (38, 112, 196)
"""What is kept, in red, green and blue."""
_GROUPS = 64
"""Groups of units in a row of a picture, at most."""
WIDTH = 360
_LEFT, _TOP, _BOTTOM = 34, 4, 30


def cells_picture(name: str, rows: Tensor, *, unit: str, said: list[str]) -> Drawing:
    """Cells between 0 and 1, a row for every block; ``said`` is shown of the row under a pointer."""
    count, columns = rows.shape
    height = max(2.2, min(12.0, 300 / count)) * count
    row = height / count
    parts = [
        f'<rect class="paper" x="{_LEFT}" y="{_TOP}" width="{WIDTH - _LEFT}" height="{height:.1f}"/>',
        f'<image x="{_LEFT}" y="{_TOP}" width="{WIDTH - _LEFT}" height="{height:.1f}" preserveAspectRatio="none" '
        f'href="{_png(rows)}"/>',
    ]
    pointed = [
        f'<rect class="row" x="{_LEFT}" y="{_TOP + index * row:.1f}" width="{WIDTH - _LEFT}" height="{row:.1f}">'
        f"<title>{text(line)}</title></rect>"
        for index, line in enumerate(said)
    ]
    gap = max(1, -(-count * 14 // int(height)))
    parts += [
        f'<text x="{_LEFT - 5}" y="{_TOP + (index + 0.5) * row + 4:.1f}" text-anchor="end">{index}</text>'
        for index in range(0, count, gap)
    ]
    below = _TOP + height + 14
    parts += [
        f'<text x="{_LEFT}" y="{below:.1f}">0</text>',
        f'<text x="{WIDTH}" y="{below:.1f}" text-anchor="end">{columns - 1}</text>',
        f'<text x="{(_LEFT + WIDTH) / 2}" y="{below:.1f}" text-anchor="middle">{text(unit)}</text>',
    ]
    tall = _TOP + height + _BOTTOM - 10
    return Drawing(name=name, width=WIDTH, height=tall, parts="".join(parts), pointed="".join(pointed))


def grouped(rows: Tensor) -> Tensor:
    """Means of neighbouring units, as many as a picture shows in a row."""
    if rows.shape[1] <= _GROUPS:
        return rows
    return torch.stack([part.mean(1) for part in rows.tensor_split(_GROUPS, dim=1)], dim=1)


def _png(rows: Tensor) -> str:
    """A picture of one pixel a cell, as an address that holds it."""
    levels = (rows.double().clamp(0, 1) * 255).round().to(dtype=rows.new_empty(0).byte().dtype)
    height, width = levels.shape
    lines = b"".join(b"\0" + bytes(line) for line in levels.tolist())
    content = b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(INK) * 256),
            _chunk(b"tRNS", bytes(range(256))),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        ]
    )
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
