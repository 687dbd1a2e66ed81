"""One task, asked as the harness asks it: the same questions, examples, metrics and errors, and no code from a file."""

import contextlib
import copy
import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from shear_lit.evaluation.suites.registry import Resolved, quiet_harness, registry
from shear_lit.evaluation.suites.suite import SuiteTask

BOOTSTRAPS = 1000
"""Resamples for the standard error of a figure that is no mean (perplexity)."""
_SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "examples": 1234}
"""Those that the harness begins with, where nobody says others."""


def load_task(resolved: Resolved, leaf: str) -> Any:
    """The harness's task with its questions, which may be fetched.

    Raises:
        Exception: of the harness, of a library below it, or of the network: the questions cannot be reached.
    """
    local = resolved.task.local
    with quiet_harness(), sandboxed_templates(), contextlib.redirect_stdout(sys.stderr):
        if local is None:
            task = registry().load([leaf])["tasks"][leaf]
        else:
            from lm_eval.tasks import TaskManager

            manager = TaskManager(include_defaults=False)
            task = manager.load([copy.deepcopy(dict(local.config))])["tasks"][leaf]
    task.set_config(key="num_fewshot", value=resolved.shots)
    task.set_fewshot_seed(seed=_SEEDS["examples"])
    return task


def asked_fingerprint(task: SuiteTask, loaded: Any) -> str:
    """A hash of all that a task's figures depend on besides the model: its config, its questions, the harness."""
    from importlib.metadata import version

    if task.local is not None:
        data: Any = dict(task.local.data)
        config = {key: value for key, value in task.local.config.items() if key != "dataset_kwargs"}
    else:
        data = {name: getattr(split, "_fingerprint", "") for name, split in loaded.dataset.items()}
        config = loaded.dump_config()
    shots = loaded.get_config("num_fewshot")
    content = [version("lm_eval"), config, data, shots, BOOTSTRAPS, _SEEDS]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def ask_task(model: Any, leaf: str, loaded: Any, *, questions: int | None) -> dict[str, Any]:
    """What the harness finds out about a model by one task: its figures, and every question with its answer."""
    from lm_eval.evaluator import evaluate
    from lm_eval.utils import handle_non_serializable

    with random_state_kept(), quiet_harness(), sandboxed_templates(), _alone():
        random.seed(_SEEDS["random"])
        np.random.seed(_SEEDS["numpy"])
        torch.manual_seed(_SEEDS["torch"])
        found = evaluate(
            lm=model,
            task_dict={"tasks": {leaf: loaded}, "groups": {}, "group_map": {}},
            limit=questions,
            bootstrap_iters=BOOTSTRAPS,
            log_samples=True,
        )
    # As it would be read again from a file.
    result: dict[str, Any] = json.loads(json.dumps(found, default=handle_non_serializable))
    return result


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave all random states as they were: the harness sets seeds."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def sandboxed_templates() -> Iterator[None]:
    """Let templates of tasks compute with their questions, and reach nothing of Python behind them."""
    import lm_eval.utils as harness
    from jinja2.sandbox import SandboxedEnvironment

    before = harness.env
    sandbox = SandboxedEnvironment(
        loader=before.loader,
        undefined=before.undefined,
        keep_trailing_newline=before.keep_trailing_newline,
    )
    sandbox.filters.update(before.filters)
    harness.env = sandbox
    try:
        yield
    finally:
        harness.env = before


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let the harness start no processes for its bootstrap, and print where logs go."""
    key = "DISABLE_MULTIPROC"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
