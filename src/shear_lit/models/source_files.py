"""Where the files of a model lie, and which of them may be read: small ones, whole ones, and none from elsewhere."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import PretrainedConfig

from shear_lit.disk.names import expanded, is_elsewhere, split_revision
from shear_lit.disk.reading import parse_json, read_small
from shear_lit.mistakes import Mistake

KEY = "model.source"
"""What ``fit`` calls the place of a model."""
REVISION = "model.revision"
"""What it calls the state that is meant of a model on the hub."""
CONFIG, GENERATION, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
TOKENIZER_FILES = (
    *("tokenizer.*", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.spm", "spiece.model", "chat_template.*", "additional_chat_templates/*"),
)
LICENCE_FILES = ("license*", "licence*", "notice*", "copying*", "use_policy*")
_READ = (CONFIG, GENERATION, INDEX, "*.safetensors", "README.md", *TOKENIZER_FILES, *LICENCE_FILES)
_OBJECTS = (GENERATION, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
"""Files beside the config that are JSON objects where they are there; transformers reads them whole."""
MOST_BYTES = 1 << 28
"""The most bytes of a file that is no file of weights; the largest tokenizer of any known model has an eighth."""
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ADAPTER = "adapter_config.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_POINTER = b"version https://git-lfs.github.com/spec/"


class SourceError(Mistake):
    """A model that cannot be read from where the user says it is.

    It quotes names from files of others: whatever is in them, the message is one line that can be printed.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        printable = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(_BREAKS.sub(" ", printable), key=key)


def is_local(source: str) -> bool:
    """Whether ``source`` is a directory on this machine, not a name on the hub.

    Raises:
        SourceError: no directory can be called so.
    """
    try:
        return source != "" and expanded(source).is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"{source!r} can be no directory ({said(error)}): a local Hugging Face model directory or a hub name "
            f"(organisation/model) is expected. Correct the path.",
            key=KEY,
        ) from error


def local_directory(source: str, patterns: tuple[str, ...]) -> Path:
    """Where the files of ``source`` lie; those of a hub name that match ``patterns`` are fetched if need be.

    A hub name may say at which revision: ``organisation/model@revision``.

    Raises:
        SourceError: it is no directory, and the hub does not have it.
    """
    if is_local(source):
        return expanded(source)
    name, revision = split_revision(source)
    if name.startswith((".", "/", "~")) or not name or name.count("/") > 1 or Path(source).exists():
        raise SourceError(
            f"{source!r} is no directory: a local Hugging Face model directory or a hub name "
            f"(organisation/model, or organisation/model@revision) is expected. Correct the path.",
            key=KEY,
        )
    try:
        cases = [case(pattern) for pattern in patterns for case in (str, str.upper, str.capitalize)]
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=cases, ignore_patterns=["consolidated*", "*.py"]
            )
        )
    except Exception as error:  # of the network, which has errors of its own
        raise SourceError(
            f"{source!r} is no local directory, and the hub did not give it "
            f"({said(error)}). Correct the name or the path; without a network, name a directory or a "
            f"model that is in the cache.",
            key=KEY,
        ) from error


def pinned(source: str, revision: str | None = None) -> str:
    """Exactly what is read of ``source`` now: a directory's name, or ``organisation/model@commit`` of a hub name.

    ``revision``: the branch, tag or commit of a hub name that does not say it itself.

    Raises:
        SourceError: there is no such model, or a revision has no effect or is named twice.
    """
    name, own = split_revision(source)
    if revision is not None and is_local(source):
        raise SourceError(
            f"{revision!r} has no effect: {KEY}={source!r} is a directory on this machine, which has one state only. "
            f"Remove it.",
            key=REVISION,
        )
    if revision is not None and own is not None:
        raise SourceError(
            f"{revision!r} and {KEY}={source!r} both say a revision. Say it once.", key=REVISION
        )
    if is_local(source):
        return source
    asked = source if revision is None else f"{name}@{revision}"
    commit = local_directory(asked, (CONFIG,)).name  # the hub's cache has a folder for each commit
    return f"{name}@{commit}" if _COMMIT.fullmatch(commit) else asked


def read_entries(directory: Path, name: str, source: str, also: Sequence[Path] = ()) -> dict[str, Any]:
    """What a small JSON file of a model holds.

    Raises:
        SourceError: it is no JSON object, is too large, leads out of the directory, or only stands for a file.
    """
    check_place(directory / name, directory, source, also)
    try:
        content = read_small(directory / name)
    except OSError as error:
        raise SourceError(
            f"{source!r}: its {name} cannot be read ({error.strerror}). Get the file again.",
            key=KEY,
        ) from error
    _refuse_pointer(content, name, source)
    try:
        entries = parse_json(content)
    except ValueError as error:
        raise SourceError(
            f"{source!r}: its {name} is no JSON ({said(error)}). Get the file again, or correct it.",
            key=KEY,
        ) from error
    if not isinstance(entries, dict):
        raise SourceError(
            f"{source!r}: its {name} holds no object of keys and values. Get the file again, or correct it.",
            key=KEY,
        )
    return entries


def check_files(directory: Path, source: str, also: Sequence[Path] = ()) -> None:
    """Look at every file that is read of a model here, except for what weights and config say.

    ``also``: places that its files may be links into.

    Raises:
        SourceError: one is a link out of the directory, only stands for a file, or is none.
    """
    if (directory / _ADAPTER).is_file():
        raise SourceError(
            f"{source!r} has an {_ADAPTER}: it holds changes to another model, not a whole one. Merge them "
            f"(merge_and_unload of peft), save the result, and name that directory; or remove the file.",
            key=KEY,
        )
    for path in files_read(directory):
        check_place(path, directory, source, also)
        if path.is_file():
            _refuse_pointer(_beginning(path, source), path.name, source)
    for name in _OBJECTS:
        if (directory / name).is_file():
            read_entries(directory, name, source, also)


def _beginning(path: Path, source: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER))
    except OSError as error:
        raise SourceError(
            f"{source!r}: its {path.name} cannot be read ({error.strerror}). Let this user read it, or remove it.",
            key=KEY,
        ) from error


def files_read(directory: Path, patterns: Sequence[str] = _READ) -> Iterator[Path]:
    """The files and links of a model with names among ``patterns``, in any case; never code."""
    for path in sorted([*directory.glob("*"), *directory.glob("additional_chat_templates/*")]):
        name = path.relative_to(directory).as_posix()
        if not name.lower().endswith(".py") and any(_is_called(name, pattern) for pattern in patterns):
            yield path


def _is_called(name: str, pattern: str) -> bool:
    return fnmatch(name.lower(), pattern.lower()) and ("/" in name) == ("/" in pattern)


def check_place(path: Path, directory: Path, source: str, also: Sequence[Path] = ()) -> None:
    """Refuse a file of a model that is a link to what is not the model's, a pipe, or larger than any.

    Raises:
        SourceError: it leads out of the directory.
    """
    if is_elsewhere(path, directory, also):
        raise SourceError(
            f"{source!r}: its {path.relative_to(directory).as_posix()} is a link that leads out of the directory: only "
            f"what lies in it is read. Copy the file there, or name the directory that it lies in.",
            key=KEY,
        )
    if not path.exists() or path.is_dir():
        return
    if not path.is_file():
        raise SourceError(
            f"{source!r}: its {path.name} is a pipe or a device, not a file. Get the file again, or remove it.",
            key=KEY,
        )
    if path.suffix != ".safetensors" and (size := path.stat().st_size) > MOST_BYTES:
        raise SourceError(
            f"{source!r}: its {path.name} has {size:,} bytes, and such a file has at most {MOST_BYTES:,}. "
            f"Get the file again, or remove it.",
            key=KEY,
        )


def _refuse_pointer(content: bytes, name: str, source: str) -> None:
    if content.startswith(_POINTER):
        raise SourceError(
            f"{source!r}: its {name} is a pointer of Git LFS, which stands for the file. "
            f"Get the file itself: `git lfs pull` in that directory.",
            key=KEY,
        )


def name_of(config: PretrainedConfig) -> str:
    """What a model is called in messages: the place that it was read from, if it was."""
    return repr(config.name_or_path) if config.name_or_path else f"a {config.model_type} model"


def said(error: Exception, most: int = 400) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[:most]}..."
