"""The demo's training runs: each is a command that a user could have typed, run in a process of its own."""

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from shear_lit.commands.demo.errors import DemoError
from shear_lit.training.checkpoints import CheckpointFacts

Stage = Literal["prune", "pretrain"]
"""The folder of a configuration."""

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[2]


def config_file(stage: Stage) -> Path:
    """The demo's configuration of a stage: in the installed package, or in the checkout that the package runs from.

    Raises:
        DemoError: it is in neither.
    """
    places = [root / "configs" / stage / "smollm2-demo.yaml" for root in (_PACKAGE, _PACKAGE.parent.parent)]
    for place in places:
        if place.is_file():
            return place
    raise DemoError(
        f"the demo's configuration is neither {places[0]} nor {places[1]}: the installation is incomplete. "
        f"Install the package again, or run the demo from a checkout."
    )


def fit(config: Path, settings: Mapping[str, str]) -> None:
    """Run ``shear-lit fit`` with ``config`` and ``settings`` on top of it; what it says goes where the demo's goes.

    Raises:
        DemoError: it has failed; the error carries its exit code.
    """
    flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
    arguments = ["-m", "shear_lit", "fit", "--config", str(config), *flags]
    logger.info("$ %s", shlex.join(["python", *arguments]))
    finished = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONUNBUFFERED": "1"}, check=False
    )
    if finished.returncode != 0:
        code = finished.returncode if finished.returncode > 0 else 128 - finished.returncode
        raise DemoError(
            f"a run of the demo has failed with exit status {code}; its own message is above. The command was: "
            f"{shlex.join(['python', *arguments])}",
            exit_code=code,
        )


def control_steps(pruned: CheckpointFacts, continued: CheckpointFacts) -> int:
    """Optimizer steps that give the control, in the batches of stage 2, the tokens of both stages together.

    Raises:
        DemoError: no whole number of them does.
    """
    per_step = continued.tokens // continued.step
    steps, rest = divmod(pruned.tokens + continued.tokens, per_step)
    if rest:
        raise DemoError(
            f"trainer.max_steps: stage 1 trains on {pruned.tokens:,} tokens, which is no multiple of the {per_step:,} "
            f"tokens of a step of stage 2: the control could not get the same training. "
            f"Change trainer.max_steps or data.global_batch of one of them."
        )
    return steps
