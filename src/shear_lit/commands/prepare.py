"""``shear-lit prepare``: raw text to prepared data."""

import logging
from typing import Any

from shear_lit.data.preparing.settings import PrepareSettings

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

    manifest = prepare_data(options)
    _log.info("%s\n%s", options.output, summary(manifest))
