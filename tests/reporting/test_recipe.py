"""The recipe beside a model comes from elsewhere: it is read within limits, or refused in one line."""

import json
import shutil

import pytest

from shear_lit.reporting.recipe import RECIPE, RecipeError, read_recipe, recipes


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "null",
        "[1]",
        '"x"',
        "[" * 100_000,
        '{"a": 1, "a": 2}',
        '{"source_recipe": 5}',
        '{"source_recipe": {"source_recipe": "x"}}',
        " " * (65 * 1024**2),
    ],
    ids=lambda content: content[:30].strip() or "large",
)
def test_damaged_recipe_is_refused(tmp_path, content):
    (tmp_path / RECIPE).write_text(content)
    with pytest.raises(
        RecipeError, match=r"recipe\.json' cannot be read .* Restore it, or remove it\."
    ) as error:
        read_recipe(tmp_path)
    assert "\n" not in str(error.value)


def test_recipe_that_is_a_link_out_of_the_directory_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "model" / RECIPE).symlink_to(tmp_path / "secret")
    with pytest.raises(RecipeError, match="link out of the directory"):
        read_recipe(tmp_path / "model")


def test_recipes_of_the_sources_are_found_as_far_as_there_are_any(tmp_path):
    assert recipes(tmp_path) == ()
    oldest = {"source": "a", "source_recipe": None}
    chain = {"source": "c", "source_recipe": {"source": "b", "source_recipe": oldest}}
    (tmp_path / RECIPE).write_text(json.dumps(chain))
    assert [each["source"] for each in recipes(tmp_path)] == ["c", "b", "a"]
    shutil.rmtree(tmp_path)
