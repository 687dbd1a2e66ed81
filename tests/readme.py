"""What README shows of the demo, made from what a demo has written: ``make readme RUN=runs/demo``.

``python -m tests.readme table RUN`` keeps the demo's figures in ``benchmarks/results`` and writes README's table and
what is said around it; ``python -m tests.readme picture RUN --node .looks`` writes the picture of its report.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from shear_lit.evaluation.tables import markdown_table

ROOT = Path(__file__).parent.parent
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "demo-report.png"
FIGURES = ROOT / "benchmarks" / "results" / "demo.json"
MOST_BYTES, WIDTH, COLOURS = 200_000, 1200, 48
HEADINGS = ("Losses", "Shape before and after")
_BEGIN, _END = "<!-- written by: make readme -->", "<!-- end -->"
_KEPT = ("name", "parameters", "repair_tokens", "generated_tokens", "training_tokens", "losses", "mean_loss")


def figures_of(results: dict) -> dict:
    """What README says of a demo's ``results.json``."""
    models = [
        {**{key: model[key] for key in _KEPT}, "tokens_per_second": model["tokens_per_second"]}
        for model in results["models"]
    ]
    differences = [
        {key: each[key] for key in ("model", "against", "value", "low", "high")}
        for each in results["comparison"]["differences"]
        if each["of"] == "loss, mean"
    ]
    return {
        "fast": results["fast"],
        "models": models,
        "differences": differences,
        "seconds": results["total_seconds"],
    }


def section(figures: dict) -> str:
    """The table, and what is said around it."""
    best = min(model["mean_loss"] for model in figures["models"][1:])
    domains = list(figures["models"][0]["losses"])
    rows = [
        [
            model["name"],
            f"{model['parameters']:,}",
            f"{model['repair_tokens']:,}",
            f"{model['training_tokens']:,}",
            *(f"{model['losses'][domain]:.3f}" for domain in domains),
            f"**{model['mean_loss']:.3f}**" if model["mean_loss"] == best else f"{model['mean_loss']:.3f}",
            "-" if model["tokens_per_second"] is None else f"{model['tokens_per_second']:.1f}",
        ]
        for model in figures["models"]
    ]
    head = ["model", "parameters", "repaired on", "trained on", *domains, "mean", "tokens/s"]
    behind = "; ".join(
        f"{each['model']} is {each['value']:.2f} nats behind {each['against']} (95 %: {each['low']:.2f} to "
        f"{each['high']:.2f})"
        for each in figures["differences"]
    )
    repaired = figures["models"][2]
    return "\n".join(
        [
            markdown_table(head, rows),
            "",
            f"It took {figures['seconds'] / 60:.0f} minutes. Losses are nats per token on held-out text. Beside "
            f"the {repaired['repair_tokens']:,} tokens of text, repairs had {repaired['generated_tokens']:,} that the "
            f"source generated.",
            f"On average over the domains, with [intervals](docs/scores.md): {behind}.",
        ]
    )


def written(readme: str, section: str) -> str:
    """README with the section in its place."""
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin and end, f"README has no {_BEGIN} … {_END}"
    return f"{before}{begin}\n{section}\n{end}{after}"


def table(run: Path) -> None:
    figures = figures_of(json.loads((run / "results.json").read_text()))
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    README.write_text(written(README.read_text(encoding="utf-8"), section(figures)), encoding="utf-8")


def picture(run: Path, node: Path) -> None:
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        page, raw = Path(folder) / "page.html", Path(folder) / "raw.png"
        command = [sys.executable, "-m", "shear_lit", "report", str(run), f"--output={page}"]
        subprocess.run(command, check=True)
        script = Path(__file__).parent / "reporting" / "picture.mjs"
        subprocess.run(["node", script, page, raw, str(WIDTH), *HEADINGS], cwd=node, check=True)
        with Image.open(raw) as image:
            image.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)
    assert PICTURE.stat().st_size <= MOST_BYTES, f"{PICTURE.stat().st_size:,} bytes: keep fewer headings"


def figures_without_source(text: str) -> list[str]:
    """Blocks of a document that state something measured and are not followed by the command that measures it.

    A block is measured where it has a number with a decimal point, or a number of minutes, seconds, gigabytes, tests or
    percent; its source is a comment ``<!-- from: COMMAND -->`` behind it, or that of the block it is written into.
    """
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(re.escape(_BEGIN) + ".*?" + re.escape(_END), "", text, flags=re.DOTALL)
    blocks = re.split(r"\n\s*\n", text)
    return [
        block.strip().splitlines()[0]
        for block, after in zip(blocks, [*blocks[1:], ""], strict=True)
        if _MEASURED.search(_LINKS.sub("", block))
        and "<!-- from: " not in block
        and not after.startswith("<!-- from: ")
    ]


_LINKS = re.compile(
    r"\]\([^)]*\)|`[^`]*`|arXiv:[\d.]+|\b[A-Z][\w.]*[- ]\d[\d.]*B?\b|\b(?:Python|version) \d\.\d+|\b\d+ GB GPUs"
    r"|\b\d(?:\.\d)+B\b"
)
_MEASURED = re.compile(r"\d\.\d|\b\d+e-\d+|\b\d+ (?:minutes|seconds|GB|%)")


def sources(text: str) -> list[str]:
    """The commands that figures come from."""
    return [
        each.strip()
        for found in re.findall(r"<!-- (?:from|written by): (.*?) -->", text)
        for each in found.split(";")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["table", "picture"])
    parser.add_argument("run", type=Path)
    parser.add_argument("--node", type=Path, default=ROOT / ".looks")
    asked = parser.parse_args()
    if asked.what == "table":
        table(asked.run)
    else:
        picture(asked.run.resolve(), asked.node)


if __name__ == "__main__":
    main()
