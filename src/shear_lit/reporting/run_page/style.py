"""How pages and pictures look: colours of light and dark paper, and the rules that use them."""

from collections.abc import Mapping, Sequence

from shear_lit.reporting.run_page.drawing import COLOURS

LIGHT = {
    "paper": "#fff",
    "text": "#1c1e21",
    "soft": "#575c63",
    "rule": "#e3e5e8",
    "box": "#f4f5f7",
    "kept": "#1b5fb4",
    "gone": "#d3dbe6",
}
DARK = {
    "paper": "#15171a",
    "text": "#e8eaed",
    "soft": "#a8adb5",
    "rule": "#33373d",
    "box": "#1f2226",
    "kept": "#6aa9f5",
    "gone": "#3a414b",
}
"""Colours by what they are for, on light and on dark paper."""
LIGHT_INKS = ("#1b5fb4", "#b4450b", "#1d7a46", "#8a3ea8", "#a8871a", "#0e7f8c", "#b02a5b", "#6b6f76")
DARK_INKS = ("#6aa9f5", "#f0935a", "#62c48d", "#c793e0", "#d9bd55", "#56c4d1", "#ee7fa6", "#a9adb5")
"""Colours of lines and areas."""
assert len(LIGHT_INKS) == len(DARK_INKS) == COLOURS

OF_PICTURES = (
    ("text", "fill:var(--soft);font-size:11px;font-family:system-ui,sans-serif"),
    (".rule", "stroke:var(--rule)"),
    (".axis", "stroke:var(--soft)"),
    (".mark", "stroke:var(--text);stroke-dasharray:2 2"),
    (".line", "fill:none;stroke:var(--ink);stroke-width:1.8;stroke-linejoin:round"),
    (".dashed", "stroke-dasharray:5 4"),
    (".dot", "fill:var(--ink)"),
    (".area", "fill:var(--ink);stroke:var(--paper);stroke-width:.6"),
    (".paper", "fill:var(--box);stroke:var(--rule)"),
    (".stays", "fill:var(--kept)"),
    (".gone", "fill:var(--gone)"),
)
"""Rules of what is drawn: which elements, and how they look."""


def picture_style() -> str:
    """The rules of a picture that is a file of its own, on light paper; no variables, which some programs ignore."""
    rules = []
    for elements, look in OF_PICTURES:
        for name, colour in LIGHT.items():
            look = look.replace(f"var(--{name})", colour)
        if "var(--ink)" in look:
            rules += [
                f"{elements}.c{number}{{{look.replace('var(--ink)', ink)}}}"
                for number, ink in enumerate(LIGHT_INKS)
            ]
        else:
            rules.append(f"{elements}{{{look}}}")
    return "".join(rules)


def _variables(colours: Mapping[str, str], inks: Sequence[str]) -> str:
    named = {**colours, **{f"c{number}": ink for number, ink in enumerate(inks)}}
    return "".join(f"--{name}:{colour};" for name, colour in named.items())


_COLOURED = "".join(f".c{number}{{--ink:var(--c{number})}}" for number in range(COLOURS))
PAGE_STYLE = (
    f":root{{color-scheme:light dark;{_variables(LIGHT, LIGHT_INKS)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK, DARK_INKS)}}}}}"
    f"@media print{{:root{{color-scheme:light;{_variables({**LIGHT, 'box': '#fff'}, LIGHT_INKS)}}}"
    "figure,tr{break-inside:avoid}h2,h3{break-after:avoid}.wide{overflow:visible!important}}"
    + _COLOURED
    + "".join(f"{'svg ' if elements == 'text' else ''}{elements}{{{look}}}" for elements, look in OF_PICTURES)
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--text);font:16px/1.5 system-ui,sans-serif;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
main{max-width:76rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:2rem 0 .5rem}
p{max-width:70ch;overflow-wrap:anywhere}
.grid{display:grid;gap:1rem 1.5rem;margin-top:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr))}
.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr))}
figure{margin:0;min-width:0}figcaption{font-size:.9rem;font-weight:600;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}
image{image-rendering:pixelated}
.hover{fill:transparent}.hover:hover{fill:var(--ink)}
.row{fill:transparent}.row:hover{fill:none;stroke:var(--text);pointer-events:all}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem .9rem;margin:.2rem 0 0;padding:0;font-size:.85rem}
.legend li{overflow-wrap:anywhere}
.swatch{display:inline-block;width:1.3em;height:0;border-top:.35em solid var(--ink);margin-right:.4em;
vertical-align:.2em}
.swatch.dashed{border-top-style:dotted}
.ramp{display:inline-block;width:6em;height:.9em;border:1px solid var(--rule);vertical-align:-.1em;
background:linear-gradient(to right,var(--box),rgb(38,112,196))}
.wide{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.88rem}
th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
td{overflow-wrap:break-word;max-width:46rem}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
summary{cursor:pointer;margin:.6rem 0;font-size:.9rem}
.notes{color:var(--text);border-left:.25rem solid var(--c1);padding-left:1.5rem}
footer{margin:2rem 0;color:var(--soft);font-size:.85rem}
"""
)
