"""``metrics.csv``: every number that a run reports, readable while it goes on."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from shear_lit.disk.writing import free_path, write_file


class MetricsFile(Logger):
    """Appends every number to one CSV file (step, name, value), which a resumed run goes on with."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    @property
    def version(self) -> str:
        """There is one file per run."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file."""
        return self._path

    def go_back_to(self, step: int) -> None:
        """Keep the rows up to ``step``, with which a run is resumed; what followed it is kept in a numbered file."""
        if not self._path.exists():
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        known = [row for row in rows if len(row) == 3 and row[0].isdigit() and int(row[0]) <= step]
        if known != rows:
            self._path.replace(free_path(self._path))
            text = io.StringIO(newline="")
            csv.writer(text).writerows([header, *known])
            write_file(self._path, text.getvalue())

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append ``metrics``."""
        fresh = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(("step", "name", "value"))
            writer.writerows((step, name, repr(value)) for name, value in metrics.items())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config lies beside the file."""
