"""The page of one run or two: all pictures are in it, no script, and nothing that a network would have to bring."""

from collections.abc import Sequence

from shear_lit.reporting.run_page.facts import RunFacts
from shear_lit.reporting.run_page.gate_sections import gates, shapes
from shear_lit.reporting.run_page.markup import text
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
        f"<title>{text(names)}</title>\n<style>{_STYLE}</style></head>\n<body><main>\n{content}\n"
        f"<footer>Written by <code>shear-lit report</code>. Point at a line, an area or a row to read its figures."
        f"</footer>\n</main></body>\n</html>\n"
    )


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_LIGHT = ("#1b5fb4", "#b4450b", "#1d7a46", "#8a3ea8", "#a8871a", "#0e7f8c", "#b02a5b", "#6b6f76")
_DARK = ("#6aa9f5", "#f0935a", "#62c48d", "#c793e0", "#d9bd55", "#56c4d1", "#ee7fa6", "#a9adb5")
"""Colours of lines and areas on light and on dark paper."""


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"--c{index}:{colour};" for index, colour in enumerate(colours))


_COLOURED = "".join(f".c{index}{{--ink:var(--c{index})}}" for index in range(len(_LIGHT)))
_STYLE = (
    f":root{{color-scheme:light dark;--paper:#fff;--text:#1c1e21;--soft:#575c63;--rule:#e3e5e8;--box:#f4f5f7;"
    f"--kept:#1b5fb4;--gone:#d3dbe6;{_variables(_LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{--paper:#15171a;--text:#e8eaed;--soft:#a8adb5;--rule:#33373d;"
    f"--box:#1f2226;--kept:#6aa9f5;--gone:#3a414b;{_variables(_DARK)}}}}}"
    f"@media print{{:root{{color-scheme:light;--paper:#fff;--text:#1c1e21;--soft:#575c63;--rule:#e3e5e8;--box:#fff;"
    f"--kept:#1b5fb4;--gone:#d3dbe6;{_variables(_LIGHT)}}}"
    "figure,tr{break-inside:avoid}h2,h3{break-after:avoid}.wide{overflow:visible!important}}"
    + _COLOURED
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
svg text{fill:var(--soft);font-size:11px;font-family:system-ui,sans-serif}
image{image-rendering:pixelated}
.rule{stroke:var(--rule)}.axis{stroke:var(--soft)}.mark{stroke:var(--text);stroke-dasharray:2 2}
.line{fill:none;stroke:var(--ink);stroke-width:1.8;stroke-linejoin:round}.dashed{stroke-dasharray:5 4}
.dot,.area{fill:var(--ink)}.area{stroke:var(--paper);stroke-width:.6}
.hover{fill:transparent}.hover:hover{fill:var(--ink)}
.row{fill:transparent}.row:hover{fill:none;stroke:var(--text);pointer-events:all}
.paper{fill:var(--box);stroke:var(--rule)}.stays{fill:var(--kept)}.gone{fill:var(--gone)}
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
