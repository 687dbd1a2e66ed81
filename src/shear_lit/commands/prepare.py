"""``shear-lit prepare``: raw text to prepared data."""

import logging
from typing import TYPE_CHECKING, Any

from shear_lit.data.preparing.settings import CommonSettings, PrepareSettings, Stage

if TYPE_CHECKING:
    from shear_lit.data.text.contamination.tasks import Task

_log = logging.getLogger(__name__)


def prepare(stage: Stage = "all", part: str = "", **settings: Any) -> None:
    """Turn text into prepared data. `prepare --check DIR` verifies some, `prepare --from-mds DIR` imports MDS.

    The data is tokenised and packed by domain, in splits that share no document. Where the output holds prepared data,
    the files that are not in it yet are added. `prepare --bounds DIR` mends what an earlier version wrote, and
    `prepare --format chat` prepares conversations. The other forms have keys of their own, which `--help` after them
    lists.

    Args:
        stage: `all`, or one of its stages, which machines that share the output do one after the other: `tokenise` in
            parts, `select`, `pack` in parts, `commit`; the other keys are the same for all of them.
        part: Which part of the stage `tokenise` or `pack` is done here: `3/8`, the third of eight, from `1/8` to `8/8`;
            by default all of it.
        settings: What is prepared, and how.
    """
    options = PrepareSettings(**settings)
    run_stage(options, stage, part)


def run_stage(options: CommonSettings, stage: Stage, part: str) -> None:
    """Prepare data, or do one part of a stage of it, and log what there is to say."""
    from shear_lit.data.preparing.plan import PartNumber
    from shear_lit.data.preparing.prepare import prepare_stage
    from shear_lit.data.preparing.reporting import summary

    number = PartNumber.parsed(part) if part else None
    manifest = prepare_stage(options, stage, number, tasks=_tasks(options))
    if manifest is not None:
        _log.info("%s\n%s", options.output, summary(manifest))
    else:
        _log.info("stage %s%s is done", stage, f", part {part}," if part else "")


def _tasks(options: CommonSettings) -> list["Task"]:
    """The evaluation tasks of the suites that are asked for."""
    if not options.decontaminate.suites:
        return []
    from shear_lit.commands.scoring import suite_named
    from shear_lit.evaluation.suites.questions import tasks_of_suite

    suites = [suite_named(name) for name in options.decontaminate.suites]
    return [task for suite in suites for task in tasks_of_suite(suite, options.decontaminate.fields)]
