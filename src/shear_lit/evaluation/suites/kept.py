"""Results of single tasks on disk, by what was measured on what: what was measured once is not measured again."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shear_lit.disk.names import is_plain_name
from shear_lit.disk.reading import SMALL_FILE_BYTES, read_json
from shear_lit.disk.writing import write_file

FORMAT = 1
_log = logging.getLogger(__name__)
_MOST_BYTES = 16 * SMALL_FILE_BYTES


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a result was measured on; of two that are equal, so are the results."""

    model: str
    """Fingerprint of the weights and the tokenizer."""
    dtype: str
    """What was computed in."""
    task: str
    """Name of the task."""
    asked: str
    """Hash of the task's config, its shots, its data, and the harness's version."""
    questions: int | None
    """At most so many were asked."""

    @property
    def fingerprint(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class KeptResults:
    """A folder with one file for each result, which appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, measured: Measured) -> Path:
        """Where a result is kept."""
        name = measured.task if is_plain_name(measured.task) else "task"
        return self.folder / measured.model[:16] / f"{name}-{measured.fingerprint[:24]}.json"

    def read(self, measured: Measured) -> dict[str, Any] | None:
        """What was kept; none where nothing was, or where what lies there is damaged or of something else."""
        path = self.file(measured)
        try:
            found = read_json(path, limit=_MOST_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("%s is measured again: %s cannot be read (%s)", measured.task, path, error)
            return None
        if not isinstance(found, dict) or found.get("measured") != asdict(measured) or "result" not in found:
            _log.warning("%s is measured again: %s is of something else", measured.task, path)
            return None
        result: dict[str, Any] = found["result"]
        return result

    def write(self, measured: Measured, result: Mapping[str, Any]) -> None:
        """Keep a result."""
        content = {"format": FORMAT, "measured": asdict(measured), "result": result}
        write_file(self.file(measured), json.dumps(content, ensure_ascii=False) + "\n")
