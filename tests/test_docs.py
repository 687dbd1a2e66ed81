"""The documents are true: names resolve, deviations exist, files that are linked or shipped can be found."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import yaml

from shear_lit.theory.shape import Axis

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def table_rows(text):
    """The cells of every table row but the heads and their rules."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return [row for row in rows if row[0] != "Equation" and not set("".join(row)) <= set("-: ")]


def names_in(cell):
    return re.findall(r"`([^`]+)`", cell)


def resolves(name):
    """Whether a dotted name is an attribute that can be imported."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        return found is not None and split < len(parts)
    return False


def is_test(name, root=ROOT):
    """Whether ``path::function`` is a test function at the top of that file."""
    path, _, function = name.partition("::")
    if not (root / path).is_file():
        return False
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def broken_rows(text, root=ROOT):
    """Rows whose functions or tests do not exist, or that name none."""
    broken = []
    for row in table_rows(text):
        functions, tests = (names_in(cell) for cell in row[-2:])
        complete = len(row) == 3 and functions and tests
        if not complete or not all(map(resolves, functions)) or not all(is_test(t, root) for t in tests):
            broken.append(row)
    return broken


def test_map_names_what_exists():
    text = (DOCS / "paper_to_code.md").read_text(encoding="utf-8")
    assert len(table_rows(text)) >= 11
    assert broken_rows(text) == []


@pytest.mark.parametrize(
    "row",
    [
        "| z | `shear_lit.theory.hard_concrete.samples` | `tests/test_docs.py::test_map_names_what_exists` |",
        "| z | `shear_lit.theory.no_module.sample` | `tests/test_docs.py::test_map_names_what_exists` |",
        "| z | `shear_lit.theory.hard_concrete` | `tests/test_docs.py::test_map_names_what_exists` |",
        "| z | `shear_lit.theory.hard_concrete.sample` | `tests/test_docs.py::test_that_is_not_there` |",
        "| z | `shear_lit.theory.hard_concrete.sample` | `tests/no_file.py::test_map` |",
        "| z | `shear_lit.theory.hard_concrete.sample` | none |",
    ],
)
def test_map_with_a_broken_row_is_found(row):
    assert broken_rows("| Equation | Function | Test |\n|---|---|---|\n" + row) != []


def deviations_listed(text):
    return re.findall(r"^## (D\d+): ", text, flags=re.MULTILINE)


def deviations_mentioned(folder):
    return {
        (path.name, number)
        for path in sorted(folder.rglob("*.py"))
        for number in re.findall(r"\bD\d+\b", path.read_text(encoding="utf-8"))
    }


def unlisted_deviations(folder, text):
    return {mention for mention in deviations_mentioned(folder) if mention[1] not in deviations_listed(text)}


def test_deviations_mentioned_in_the_code_are_listed():
    text = (DOCS / "deviations.md").read_text(encoding="utf-8")
    assert deviations_mentioned(ROOT / "src")
    assert unlisted_deviations(ROOT / "src", text) == set()


def test_deviation_that_is_not_listed_is_found(tmp_path):
    (tmp_path / "module.py").write_text('"""Differs: D1 and D99."""')
    text = (DOCS / "deviations.md").read_text(encoding="utf-8")
    assert unlisted_deviations(tmp_path, text) == {("module.py", "D99")}


def test_deviations_are_numbered_in_order_and_complete():
    text = (DOCS / "deviations.md").read_text(encoding="utf-8")
    numbers = deviations_listed(text)
    assert numbers == [f"D{number}" for number in range(1, len(numbers) + 1)]
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        for part in ("**Reason.**", "**Size of effect.**", "**Switch.**"):
            assert part in section, f"{section.split(':')[0]} does not say its {part}"


def test_glossary_names_every_axis():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    assert [axis for axis in Axis if f"`{axis.value}`" not in text] == []


def documents():
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "launch").glob("*.md")])


def broken_links(path):
    """Links to files of this repository that do not exist."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    return [t for t in targets if "://" not in t and not (path.parent / t).exists()]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(path):
    assert broken_links(path) == []


def test_link_to_a_missing_file_is_found(tmp_path):
    (tmp_path / "page.md").write_text("[there](page.md) [gone](missing.md#part) [web](https://example.org)")
    assert broken_links(tmp_path / "page.md") == ["missing.md"]


def unmentioned_configs(folder, text):
    return [path.name for path in sorted(folder.rglob("*.yaml")) if path.name not in text]


def test_configs_are_mentioned_in_the_documents():
    """Configurations for tests alone, in a folder ``toy``, need no mention."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents())
    configs = ROOT / "configs"
    shipped = [
        name for name in unmentioned_configs(configs, text) if not any(configs.rglob(f"toy/**/{name}"))
    ]
    assert shipped == []


def test_config_without_a_mention_is_found(tmp_path):
    (tmp_path / "prune").mkdir()
    (tmp_path / "prune" / "new.yaml").touch()
    (tmp_path / "prune" / "known.yaml").touch()
    assert unmentioned_configs(tmp_path, "see configs/prune/known.yaml") == ["new.yaml"]


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert paper["url"].endswith("2310.06694")
    assert [author["family-names"] for author in paper["authors"]] == ["Xia", "Gao", "Zeng", "Chen"]
    assert citation["license"] == "Apache-2.0"


def test_licence_is_complete():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    parts = [
        "Version 2.0, January 2004",
        "END OF TERMS AND CONDITIONS",
        "APPENDIX: How to apply",
        "limitations under the License.",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)
    assert len(re.findall(r"^   \d\. ", text, flags=re.MULTILINE)) == 9


def test_changelog_has_an_unreleased_section():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
