"""``shear-lit prepare``: raw text to prepared data."""

import logging
from typing import TYPE_CHECKING, Any

from shear_lit.data.preparing.settings import PrepareSettings

if TYPE_CHECKING:
    from shear_lit.data.text.contamination.tasks import Task

_log = logging.getLogger(__name__)


def prepare(**settings: Any) -> None:
    """Turn text into prepared data. `prepare --check DIR` verifies some, `prepare --from-mds DIR` imports MDS.

    The data is tokenised and packed by domain, in splits that share no document. Where the output holds prepared data,
    the files that are not in it yet are added. `prepare --bounds DIR` mends what an earlier version wrote, and
    `prepare --format chat` prepares conversations. The other forms have keys of their own, which `--help` after them
    lists.
    """
    options = PrepareSettings(**settings)
    from shear_lit.data.preparing.prepare import prepare as prepare_data
    from shear_lit.data.preparing.reporting import summary

    manifest = prepare_data(options, tasks=_tasks(options))
    _log.info("%s\n%s", options.output, summary(manifest))


def _tasks(options: PrepareSettings) -> list["Task"]:
    """The evaluation tasks of the suites that are asked for."""
    if not options.decontaminate.suites:
        return []
    from shear_lit.commands.scoring import suite_named
    from shear_lit.evaluation.suites.questions import tasks_of_suite

    suites = [suite_named(name) for name in options.decontaminate.suites]
    return [task for suite in suites for task in tasks_of_suite(suite, options.decontaminate.fields)]
