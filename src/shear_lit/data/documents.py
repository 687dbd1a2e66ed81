"""Raw documents: which files, which lines count, and which split a document belongs to."""

import glob
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shear_lit.data.errors import DataError

_REPORTED = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """The fraction of the documents that each split gets; they sum to 1.

    A document's split follows from a hash of its text with case folded and white space collapsed, so that copies of one
    text land in one split and the fractions are met on average.
    """

    prune: float = 0.2
    """Fraction for stage 1, learning what to keep."""
    pretrain: float = 0.75
    """Fraction for stage 2, continued pre-training."""
    validation: float = 0.05
    """Fraction held out for the losses that move the mixture."""

    def __post_init__(self) -> None:
        shares = asdict(self)
        if not all(0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
            raise DataError(
                f"shares={shares} sum to {sum(shares.values()):g}: each must be 0 to 1 and the sum must be 1. "
                "Correct one of them; 0 leaves a split out."
            )

    def split_of(self, text: str) -> str:
        """The split of the document ``text``."""
        digest = hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()
        place, upper = int.from_bytes(digest[:8]) / 2**64, 0.0
        wanted = {name: share for name, share in asdict(self).items() if share > 0}
        for name, share in wanted.items():
            upper += share
            if place < upper:
                return name
        return list(wanted)[-1]  # the shares' sum is 1 only within rounding


def domain_files(domains: Mapping[str, str | Sequence[str]]) -> dict[str, list[Path]]:
    """The files of each domain, in order: paths as given, globs sorted.

    Raises:
        DataError: there is no such file, or it is no ``.jsonl`` file.
    """
    return {name: _files_of(name, [p] if isinstance(p, str) else p) for name, p in domains.items()}


def _files_of(domain: str, patterns: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for pattern in patterns:
        found = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (absolute patterns)
        found = [Path(pattern)] if Path(pattern).is_file() else [p for p in found if p.is_file()]
        if not found:
            raise DataError(
                f"domains.{domain}: no file matches {pattern!r}: a path or a glob of .jsonl files is expected. "
                "Correct it; a directory is written as 'directory/*.jsonl'."
            )
        files += [p for p in found if p not in files]
    if not files:
        raise DataError(
            f"domains.{domain} is an empty list: each domain needs text. Name a file, or leave it out."
        )
    for path in files:
        if path.suffix != ".jsonl":
            raise DataError(
                f"domains.{domain}: {str(path)!r} is no .jsonl file: one JSON object per line is read, uncompressed. "
                "Convert it, or narrow the glob."
            )
    return files


class DocumentReader:
    """The texts of one domain; what cannot be used is counted and reported, never passed over in silence."""

    def __init__(self, domain: str, files: Sequence[Path], text_field: str) -> None:
        self._domain, self._files, self._text_field = domain, files, text_field
        self.accepted = 0
        """Documents read so far."""
        self.rejected: Counter[str] = Counter()
        """Lines that held no usable document, by reason."""
        self._first: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for path in self._files:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.isspace():
                        continue  # JSON Lines allows blank lines: they are no documents
                    text, reason = self._text_of(line)
                    if reason:
                        self._reject(f"{path}:{number}: {reason}", reason)
                    else:
                        self.accepted += 1
                        yield text

    def check(self, max_rejected_fraction: float) -> None:
        """Refuse a domain too much of which was rejected.

        Raises:
            DataError: more than ``max_rejected_fraction`` of its documents were rejected.
        """
        rejected = self.rejected.total()
        if rejected:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
            _log.warning(
                "domain %s: %d of %d documents rejected: %s", self._domain, rejected, self._seen, counts
            )
            if rejected > max_rejected_fraction * self._seen:
                raise DataError(
                    f"max_rejected_fraction={max_rejected_fraction}: {rejected} of {self._seen} documents of domain "
                    f"{self._domain!r} cannot be used ({counts}). The first: {'; '.join(self._first)}. "
                    "Repair the files, correct text_field, or raise max_rejected_fraction."
                )

    @property
    def _seen(self) -> int:
        return self.accepted + self.rejected.total()

    def _text_of(self, line: bytes) -> tuple[str, str]:
        """The text of a line, or why it has none."""
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            return "", "invalid UTF-8"
        except (json.JSONDecodeError, RecursionError):
            return "", "malformed JSON"
        text = record.get(self._text_field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            return "", f"no text in field {self._text_field!r}"
        if not text.strip():
            return "", "empty document"
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # a lone surrogate, written as an escape
            return "", "invalid UTF-8"
        return text, ""

    def _reject(self, where: str, reason: str) -> None:
        self.rejected[reason] += 1
        if len(self._first) < _REPORTED:
            self._first.append(where)
            _log.warning("domain %s: rejected %s", self._domain, where)
