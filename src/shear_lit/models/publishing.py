"""A model's directory as a repository of the Hugging Face hub: one commit, or nothing; nothing is overwritten unasked.

The hub is that of ``HF_ENDPOINT``, the token that of ``HF_TOKEN`` or of `hf auth login`; no message shows it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from shear_lit.disk.names import is_elsewhere
from shear_lit.mistakes import Mistake

KEY = "push"
_OF_THE_HUB = ".gitattributes"
"""What a new repository has, and keeps."""
_UNAUTHORIZED, _FORBIDDEN, _CONFLICT, _CHANGED = 401, 403, 409, 412
_Answer = TypeVar("_Answer")


class HubError(Mistake):
    """A repository that cannot be written as the user asked."""


class NoAnswerError(HubError):
    """A hub that did not answer, or not as it should: the same command may do it later."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository that may be written to."""

    name: str
    """``organisation/model``."""
    is_new: bool
    """Whether there is none of that name yet."""
    files: tuple[str, ...] = ()
    """What is in it, besides what the hub puts there."""
    commit: str | None = None
    """Its newest commit; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A commit that was made."""

    address: str
    """Where the model can be looked at."""
    commit: str
    """The commit."""
    private: bool | None
    """Whether only its owners see it; None of a repository that was there before."""

    def __str__(self) -> str:
        who = {True: " (private)", False: " (public)", None: ""}[self.private]
        return f"pushed to {self.address}{who}, commit {self.commit[:12]}"


def open_repository(name: str, *, overwrite: bool) -> Repository:
    """Look whether a model may be pushed under a name; nothing is written.

    Raises:
        HubError: no such name is possible, there is no token or the hub does not take it, or the repository holds
            files and ``overwrite`` is not asked for.
        NoAnswerError: the hub cannot be asked.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubError(
            f"{name!r} can be no repository of the hub: organisation/model is expected, in letters, digits, '-', '_' "
            f"and '.'. Correct it.",
            key=KEY,
        ) from error
    if get_token() is None:
        raise HubError(
            f"{name!r}: no token of the hub is known, and it writes for nobody else. Run `hf auth login`, or set "
            f"HF_TOKEN to a token that may write.",
            key=KEY,
        )
    api = HfApi()
    user = _asked(name, lambda: str(api.whoami()["name"]))
    whole = name if "/" in name else f"{user}/{name}"
    found = _asked(whole, lambda: _found(api, whole))
    if (files := found.files) and not overwrite:
        raise HubError(
            f"{whole!r} is there and holds {len(files)} file{'s' * (len(files) != 1)} ({files[0]}): nothing is "
            f"overwritten unasked. Choose another name, or add --push_over true: its history keeps what was there.",
            key=KEY,
        )
    return found


def push(directory: Path, repository: Repository, *, private: bool) -> Pushed:
    """Make the files of a directory all that a repository holds, in one commit.

    Raises:
        HubError, NoAnswerError: it was not done; a repository that was to be new may be there, without a file.
    """
    api, name = HfApi(), repository.name
    present = {path.relative_to(directory).as_posix(): path for path in _files_in(directory)}
    add = [CommitOperationAdd(file, _content(path, name)) for file, path in present.items()]
    gone = [CommitOperationDelete(file) for file in repository.files if file not in present]
    if repository.is_new:
        _asked(name, lambda: api.create_repo(name, private=private))
    message, parent = "Model exported by shear_lit", repository.commit
    done = _asked(
        name, lambda: api.create_commit(name, [*gone, *add], commit_message=message, parent_commit=parent)
    )
    return Pushed(
        address=f"{api.endpoint}/{name}", commit=done.oid, private=private if repository.is_new else None
    )


def _files_in(directory: Path) -> list[Path]:
    """The files of a model.

    Raises:
        HubError: a link among them leads elsewhere.
    """
    found = sorted(path for path in directory.rglob("*") if path.is_file() or path.is_symlink())
    for path in found:
        if is_elsewhere(path, directory):
            raise HubError(
                f"{path.name!r} in {str(directory)!r} is a link that leads out of the directory, and what lies there "
                f"is not published. Remove it.",
                key=KEY,
            )
    return found


def _content(path: Path, name: str) -> str | bytes:
    """A file as it is; the card says the name under which the model is loaded."""
    if path.name != "README.md":
        return str(path)
    card = path.read_text(encoding="utf-8")
    for around in ('"{}"', "--model.source {}"):
        card = card.replace(around.format("<this directory>"), around.format(name))
    return card.encode()


def _found(api: HfApi, name: str) -> Repository:
    """What there is under a name."""
    try:
        commit = api.model_info(name).sha
        files = tuple(file for file in api.list_repo_files(name, revision=commit) if file != _OF_THE_HUB)
    except RepositoryNotFoundError as error:
        if error.response.status_code == _UNAUTHORIZED:
            raise
        return Repository(name=name, is_new=True)
    return Repository(name=name, is_new=False, files=files, commit=commit)


def _asked(name: str, ask: Callable[[], _Answer]) -> _Answer:
    """What the hub answers.

    Raises:
        HubError, NoAnswerError: it refuses, or does not answer.
    """
    try:
        return ask()
    except HubError:
        raise
    except OfflineModeIsEnabled as error:
        raise HubError(
            f"{name!r}: HF_HUB_OFFLINE is set, and nothing can be pushed without the hub. Take it out of the "
            f"environment.",
            key=KEY,
        ) from error
    except Exception as error:  # of the network, which has errors of its own
        first = error
        while first.__cause__ is not None:  # an upload says what failed, and not why
            first = first.__cause__  # type: ignore[assignment]
        for found in (error, first):
            if isinstance(found, HfHubHTTPError):
                raise _refusal(name, found) from error
        raise NoAnswerError(
            f"{name!r}: {HfApi().endpoint} did not answer ({_said(first)}). Look at the network, and at HF_ENDPOINT.",
            key=KEY,
        ) from error


def _refusal(name: str, error: HfHubHTTPError) -> HubError:
    status = error.response.status_code
    reasons = {
        _UNAUTHORIZED: "the hub does not know the token. Run `hf auth login` again, or correct HF_TOKEN.",
        _FORBIDDEN: "the token may not write there. Use one that may, or another organisation.",
        **dict.fromkeys(
            (_CONFLICT, _CHANGED),
            "somebody has made it, or changed it, meanwhile. Look at it, and push again.",
        ),
    }
    if status in reasons:
        return HubError(f"{name!r}: {reasons[status]}", key=KEY)
    return NoAnswerError(
        f"{name!r}: {HfApi().endpoint} answered {status} ({_said(error)}). Push again later.", key=KEY
    )


def _said(error: BaseException) -> str:
    """What an error of a library says, on a line, without the token if it should be in it."""
    words = " ".join(str(error).split()) or type(error).__name__
    token = get_token()
    return words.replace(token, "...") if token else words
