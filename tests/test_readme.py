"""README is true: its table is what a demo wrote, figures say where they come from, and what it says to type exists."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from shear_lit.commands.table import COMMANDS
from tests.readme import (
    FIGURES,
    MOST_BYTES,
    PICTURE,
    README,
    ROOT,
    figures_of,
    figures_without_source,
    section,
    sources,
    written,
)

TEXT = README.read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def missing(command: str) -> str:
    """What a command names that does not exist; nothing where all does."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    if not words:
        return ""
    program, *rest = words
    name = Path(program).name
    if name == "make":
        return next((word for word in rest if "=" not in word and word not in TARGETS), "")
    if name in ("pip", "pytest", "ruff", "mypy", "tensorboard"):
        files = [word.partition("::")[0] for word in rest if word.startswith(("tests/", "benchmarks/"))]
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"\.\[([a-z,]+)\]", command)
        unknown = [extra for each in asked for extra in each.split(",") if extra not in extras]
        return next((file for file in files if not (ROOT / file).exists()), "") or "".join(unknown[:1])
    if name == "shear-lit":
        return "" if rest[0] in COMMANDS else rest[0]
    if name in ("python", "python3"):
        if rest[0] == "-m":
            if rest[1] == "shear_lit":
                return "" if rest[2] in COMMANDS else rest[2]
            module = ROOT / f"{rest[1].replace('.', '/')}"
            known = rest[1] in ("venv", "pip", "pytest") or module.with_suffix(".py").exists()
            return "" if known else rest[1]
        if not (ROOT / rest[0]).exists():
            return rest[0]
        script = (ROOT / rest[0]).read_text()
        return next((word for word in rest[1:] if word.startswith("--") and f'"{word}"' not in script), "")
    return program


def typed(text):
    """The lines that a document says to type."""
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            yield from (
                part.strip() for part in line.split("&&") if part.strip() and not part.startswith("#")
            )


def test_every_figure_says_the_command_that_it_comes_from():
    assert figures_without_source(TEXT) == []


@pytest.mark.parametrize("command", sources(TEXT))
def test_command_of_a_figure_exists(command):
    assert missing(command) == ""


@pytest.mark.parametrize("command", list(typed(TEXT)))
def test_what_is_to_be_typed_exists(command):
    assert missing(command) == ""


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("make demos", "demos"),
        ("python benchmarks/no.py", "benchmarks/no.py"),
        ("python benchmarks/gated_step.py --modle x", "--modle"),
        ("shear-lit fitt --config a", "fitt"),
        ("pip install -e '.[evil]'", "evil"),
        ("pytest tests/nowhere.py", "tests/nowhere.py"),
        ("rm -rf /", "rm"),
    ],
)
def test_command_that_does_not_exist_is_found(command, what):
    assert missing(command) == what


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is 1.5 times faster.", ["It is 1.5 times faster."]),
        ("It is 1.5 times faster.\n\n<!-- from: make demo -->", []),
        ("It took 18 minutes.", ["It took 18 minutes."]),
        ("Llama-3.1-8B and `0.5` and [x](a1.5.md), arXiv:2310.06694, Python 3.11", []),
    ],
)
def test_figure_without_a_source_is_found(text, found):
    assert figures_without_source(text) == found


def test_table_is_what_the_stored_figures_say():
    """Written by ``make readme``."""
    figures = json.loads(FIGURES.read_text())
    assert not figures["fast"] and written(TEXT, section(figures)) == TEXT


def test_table_follows_the_figures():
    figures = json.loads(FIGURES.read_text())
    figures["models"][3]["losses"]["code"] += 1
    assert written(TEXT, section(figures)) != TEXT


def test_figures_are_taken_from_what_a_demo_writes():
    stored = json.loads(FIGURES.read_text())
    differences = [{**each, "of": "loss, mean", "holds_zero": False} for each in stored["differences"]]
    models = [{**model, "directory": "/somewhere"} for model in stored["models"]]
    results = {
        "fast": False,
        "models": models,
        "comparison": {"differences": differences},
        "total_seconds": stored["seconds"],
    }
    assert figures_of(results) == stored


def test_picture_is_there_small_and_shown():
    content = PICTURE.read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) <= MOST_BYTES
    assert f"]({PICTURE.relative_to(ROOT)})" in TEXT


def test_cost_follows_from_the_published_rates():
    """Steps x sequences x tokens of either stage, over the authors' tokens a second on a GPU."""
    pruning, pretraining = 3200 * 32 * 4096, 48_000 * 256 * 4096
    assert (round(pruning / 1e9, 1), round(pretraining / 1e9)) == (0.4, 50)
    for rate, hours in ((8684, "1,673"), (4957, "2,884")):
        assert f"{(pruning / 1844 + pretraining / rate) / 3600:,.0f}" == hours and hours in TEXT
