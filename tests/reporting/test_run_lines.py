"""What a run says in lines of text, as it stands on a terminal of 80 columns."""

import math

import pytest

from shear_lit.reporting.run_lines import beginning, ending, going_on, validation_table
from shear_lit.theory.shape import ModelShape

BEFORE = ModelShape(layers=30, hidden=576, query_heads=9, kv_heads=3, intermediate=1536)
AFTER = ModelShape(layers=24, hidden=480, query_heads=6, kv_heads=2, intermediate=1536)


def test_beginning_says_what_is_pruned_to_what():
    assert beginning("org/model", BEFORE, AFTER, steps=3200, step_tokens=131072, domains=7) == (
        "prunes org/model\n"
        "  layers 30 to 24, hidden 576 to 480, query heads 9 to 6, kv heads 3 to 2\n"
        "  3,200 steps of 131,072 tokens, 7 domains"
    )
    assert (
        beginning("m", None, None, steps=1, step_tokens=8, domains=1)
        == "trains m\n  1 steps of 8 tokens, 1 domain"
    )


def test_validation_is_a_table_of_losses_changes_and_shares():
    found = validation_table(
        40,
        {"code": 2.5, "law": math.nan},
        {"code": 2.0, "law": 3.0},
        {"code": 0.75, "law": 0.25},
        {"code": 3.0},
    )
    assert found == (
        "validation at step 40\n"
        "  domain                          loss   reference      change  next share\n"
        "  code                          2.5000      2.0000     -0.5000       75.0%\n"
        "  law                             none      3.0000                   25.0%"
    )


def test_lines_of_long_names_fit_on_80_columns():
    names = {"a-domain-with-a-name-that-goes-on-and-on": 1.0}
    found = validation_table(1_000_000, names, names, names, names)
    assert max(map(len, found.splitlines())) <= 80 and "…" in found


def test_beginning_says_the_time_that_a_run_takes_at_least():
    sizes = dict(steps=10, step_tokens=8, domains=1)
    found = beginning("m", None, None, **sizes, seconds=7200, processes=8)
    assert found.endswith("\n  at least 2.0 h on 8 processes, by what its matrix products alone take here")
    assert "at least" not in beginning("m", None, None, **sizes, seconds=0.5)


def test_run_that_goes_on_says_where_and_how_long():
    assert (
        going_on(40, 100, 600) == "goes on after step 40 of 100, about 10 min left if it is as fast as before"
    )
    assert going_on(40, 100, 0) == "goes on after step 40 of 100"


@pytest.mark.parametrize("prunes", [True, False])
def test_ending_names_the_next_commands(prunes):
    found = ending("runs/a", "runs/a/checkpoints/step=000004.ckpt", prunes=prunes)
    assert len({line.index("  shear-lit") for line in found.splitlines()}) == 1, "one below the other"
    assert "shear-lit report runs/a" in found
    assert "shear-lit export --checkpoint runs/a/checkpoints/step=000004.ckpt --output MODEL" in found
