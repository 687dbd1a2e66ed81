"""``shear-lit prepare --from-mds DIR``: LLM-Shearing's MDS folders to prepared data."""

import logging
from typing import Any

from shear_lit.data.preparing.settings import MdsImport

_log = logging.getLogger(__name__)


def import_mds(**settings: Any) -> None:
    """Take over the packed sequences of LLM-Shearing's MDS folders, split as they are, as prepared data."""
    options = MdsImport(**settings)
    from shear_lit.data.preparing.mds_import import import_mds as import_folders
    from shear_lit.data.preparing.reporting import summary

    manifest = import_folders(options)
    _log.info("%s\n%s", options.output, summary(manifest))
