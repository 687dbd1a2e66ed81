"""``shear-lit prepare``: raw text to prepared data."""

import logging
from typing import Any

from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.preparing.settings import PrepareSettings
from shear_lit.data.text.documents import listed

_log = logging.getLogger(__name__)


def prepare(**settings: Any) -> None:
    """Turn raw text into prepared data. `prepare --check DIR` verifies some, `prepare --from-mds DIR` imports MDS.

    The data is tokenised and packed by domain, in splits that share no document. Where the output holds prepared data,
    the files that are not in it yet are added. The other two forms have keys of their own, which `--help` after them
    lists.
    """
    options = PrepareSettings(**settings)
    from shear_lit.data.preparing.prepare import prepare as prepare_data

    manifest = prepare_data(options)
    _log.info("%s\n%s", options.output, summary(manifest))


def summary(manifest: Manifest) -> str:
    """One line per domain and split: documents, tokens, sequences, tokens left over, duplicates dropped."""
    heads = ("documents", "tokens", "sequences", "left over", "duplicates")
    lines = [f"{'domain':<20}{'split':<12}{''.join(f'{head:>15}' for head in heads)}"]
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            counts = (
                record.documents,
                record.tokens,
                record.sequences,
                record.tail_tokens,
                record.duplicates,
            )
            lines.append(f"{name:<20}{split:<12}{''.join(f'{count:>15,}' for count in counts)}")
        if domain.rejected:
            lines.append(f"{name:<20}{sum(domain.rejected.values()):,} rejected: {listed(domain.rejected)}")
        if domain.unused:
            lines.append(f"{name:<20}{domain.unused:,} documents that no split wanted")
    return "\n".join(lines)
