"""``shear-lit prepare``: raw text to prepared data."""

import logging
from typing import Any

from shear_lit.data.manifest import Manifest
from shear_lit.data.prepare import PrepareSettings
from shear_lit.data.prepare import prepare as prepare_data

_log = logging.getLogger(__name__)


def prepare(**settings: Any) -> None:
    """Turn raw text into prepared data. `prepare --check DIR` verifies some, `prepare --from-mds DIR` imports MDS.

    The data is tokenised and packed by domain, in splits that share no document. The other two forms have keys of their
    own, which `--help` after them lists.
    """
    options = PrepareSettings(**settings)
    manifest = prepare_data(options)
    _log.info("%s\n%s", options.output, summary(manifest))


def summary(manifest: Manifest) -> str:
    """One line per domain and split: documents, tokens, sequences, and the tokens dropped at the end."""
    lines = [f"{'domain':<20}{'split':<12}{'documents':>12}{'tokens':>16}{'sequences':>12}{'dropped':>9}"]
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            lines.append(
                f"{name:<20}{split:<12}{record.documents:>12,}{record.tokens:>16,}"
                f"{record.sequences:>12,}{record.tail_tokens:>9,}"
            )
    return "\n".join(lines)
