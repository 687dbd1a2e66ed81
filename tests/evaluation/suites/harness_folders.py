"""The part of the harness's registry that the shipped suites name; looking through all of it takes a dozen seconds."""

from pathlib import Path
from typing import Any

SUITES = ("sheared-llama", "open-llm-leaderboard-v1")
_FOLDERS = (
    *("arc", "drop", "gsm8k", "hellaswag", "lambada", "logiqa", "mmlu/default", "nq_open", "piqa", "sciq"),
    *("super_glue", "truthfulqa", "winogrande"),
)


def partial_registry() -> Any:
    """The harness's own tasks of these folders, as its whole registry has them (``make scores`` compares)."""
    import lm_eval.tasks

    place = Path(lm_eval.tasks.__file__).parent
    return lm_eval.tasks.TaskManager(
        include_defaults=False, include_path=[str(place / folder) for folder in _FOLDERS]
    )
