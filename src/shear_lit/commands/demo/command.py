"""``shear-lit demo``: the whole method on a real model and real text, small, with nothing to configure."""

from typing import TYPE_CHECKING

from shear_lit.commands.demo.cache import default_cache
from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_folder

if TYPE_CHECKING:
    from shear_lit.commands.demo.table import DemoResult


def demo(
    output: str = "runs/demo", cache: str = str(default_cache()), *, fast: bool = False, chat: bool = False
) -> "DemoResult":
    """Prune a real pretrained model to 79.6 M parameters, continue its pre-training, and compare it with a random cut.

    Args:
        output: Directory for data, runs, models and the report; it must be new or empty.
        cache: Directory in which the source model and the text are kept once they are fetched.
        fast: Take only a few steps: the same path in about seven minutes.
        chat: End with ten seconds of talk with the source and the result.
    """
    place, kept = expanded(output), expanded(cache)
    check_folder(place, key="output")
    check_folder(kept, key="cache")
    from shear_lit.commands.demo.run import run_demo

    return run_demo(place, kept, fast=fast, chat=chat)
