"""A drawing: what a page holds as it is, and a file of its own in parts."""

from dataclasses import dataclass

from shear_lit.reporting.run_page.markup import text

COLOURS = 8
"""Colours of lines and areas, which styles know as ``c0`` and so on."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of a legend."""

    label: str
    colour: int
    dashed: bool = False

    @property
    def classes(self) -> str:
        """Its colour and stroke, as a style knows them."""
        return f"c{self.colour % COLOURS}{' dashed' if self.dashed else ''}"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Shapes and words of SVG, as wide and high as they say; as text it is what a page holds."""

    name: str
    """What it shows, for those who do not see it."""
    width: float
    height: float
    parts: str
    """Elements that are seen."""
    pointed: str = ""
    """Elements that are seen under a pointer alone, with what they then say."""
    legend: tuple[Entry, ...] = ()
    """What its colours stand for; none where there is one."""

    def __str__(self) -> str:
        box = f"0 0 {self.width:.0f} {self.height:.0f}"
        svg = (
            f'<svg role="img" aria-label="{text(self.name)}" viewBox="{box}">{self.parts}{self.pointed}</svg>'
        )
        items = "".join(
            f'<li><i class="swatch {each.classes}"></i>{text(each.label)}</li>' for each in self.legend
        )
        return svg + (f'<ul class="legend">{items}</ul>' if items else "")
