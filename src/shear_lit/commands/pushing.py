"""An export on its way to the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path

from shear_lit.commands.failures import UsageError
from shear_lit.models.publishing import HubError, Pushed, open_repository, push
from shear_lit.models.source_files import CONFIG
from shear_lit.reporting.recipe import RECIPE


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """An export that was pushed."""

    directory: str
    """Where it lies on this machine."""
    pushed: Pushed
    """Where it was pushed to."""

    def __str__(self) -> str:
        return f"{self.directory}: {self.pushed}"


def push_export(directory: Path, name: str, *, private: bool, overwrite: bool) -> PushResult:
    """Push what `export` has written; ``export`` says what the arguments are.

    Raises:
        UsageError: it is no directory that `export` wrote.
        HubError: the hub refuses it, or does not answer.
    """
    if not (directory / CONFIG).is_file() or not (directory / RECIPE).is_file():
        raise UsageError(
            f"output={str(directory)!r} is no export: with push, and neither a checkpoint nor gates, a directory that "
            f"`shear-lit export` wrote is expected. Name one, or say with --checkpoint or --gates what is to be cut."
        )
    repository = open_repository(name, overwrite=overwrite)
    try:
        return PushResult(directory=str(directory), pushed=push(directory, repository, private=private))
    except HubError as error:
        error.args = (
            f"{error.args[0]} The model is in {str(directory)!r}; to push it by itself: "
            f"shear-lit export --output {directory} --push {name}",
        )
        raise
