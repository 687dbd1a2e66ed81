"""Chat templates: the tokenizer's own, one of those that come with this package, or one in a file.

A template is a program in Jinja that writes messages as one text. It is run by transformers' own sandboxed renderer,
which gives it no way to files, modules or the rest of Python.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.conversations import ChatTemplate
from shear_lit.data.tokens.tokenizer import TextTokenizer, check_files
from shear_lit.disk.names import expanded, split_revision
from shear_lit.disk.reading import read_json, read_small
from shear_lit.disk.records import one_line

OWN = "tokenizer"
"""The name of the template that a tokenizer comes with."""
FILE = "chat_template.jinja"
"""What holds it, beside the tokenizer."""
SUFFIX = ".jinja"
"""What the name of a file with a template ends with."""

_CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")
_MOST_BYTES = 1 << 20
_ROLES = "_token"  # what the names of special tokens in a config end with
_TODAY = "strftime_now"


def built_in_names() -> list[str]:
    """The names of the templates that come with this package."""
    names = (entry.name for entry in _folder().iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))


def find_template(
    tokenizer: TextTokenizer, asked: str = OWN, variables: Mapping[str, bool | str] | None = None
) -> ChatTemplate:
    """The template that is asked for.

    Args:
        tokenizer: What the text will be tokenised by.
        asked: ``tokenizer``, a name of ``built_in_names``, or a file whose name ends with ``.jinja``.
        variables: Values for what the template asks for besides messages.

    Raises:
        DataError: there is none, or it writes the date of the day.
    """
    config = _config(tokenizer.name)
    if asked == OWN:
        source = _own(tokenizer.name, config)
    elif asked in (names := built_in_names()):
        source = (_folder() / f"{asked}{SUFFIX}").read_text(encoding="utf-8")
    elif asked.endswith(SUFFIX):
        source = _read(expanded(asked), asked)
    else:
        raise DataError(
            f"{asked!r} is no template: {OWN} (its own), {', '.join(names)}, or a file that ends with {SUFFIX} is "
            "expected. Correct it.",
            key="template",
        )
    given = dict(variables or {})
    if _TODAY in source and "date_string" not in given:
        raise DataError(
            f"{asked!r} writes the date of the day on which it is used: tomorrow the same conversations would be other "
            'tokens. Give it one, such as --variables \'{"date_string": "26 Jul 2024"}\'.',
            key="template",
        )
    special = _special_tokens(tokenizer, config)
    return ChatTemplate(name=asked, source=source, special_tokens=special, variables=given)


def _folder() -> Any:
    return resources.files("shear_lit.data.chat") / "built_in"


def _own(name: str, config: Mapping[str, Any]) -> str:
    path = _beside(name, FILE)
    found: Any = (
        _read(path, str(path)) if path is not None and path.is_file() else config.get("chat_template")
    )
    if isinstance(found, list):  # of named ones
        found = {one.get("name"): one.get("template") for one in found if isinstance(one, Mapping)}
    if isinstance(found, Mapping):
        found = found.get("default")
    if not isinstance(found, str) or not found:
        raise DataError(
            f"{OWN}: {name!r} comes with no chat template. Choose one of {', '.join(built_in_names())}, or name a file "
            f"that ends with {SUFFIX}.",
            key="template",
        )
    return found


def _config(name: str) -> dict[str, Any]:
    """What the files beside a tokenizer say of it."""
    found: dict[str, Any] = {}
    for file in _CONFIGS:
        if (path := _beside(name, file)) is not None and path.is_file():
            try:
                content = read_json(path)
            except (OSError, ValueError) as error:
                raise _unreadable(str(path), error) from error
            found |= content if isinstance(content, dict) else {}
    return found


def _special_tokens(tokenizer: TextTokenizer, config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by role, as transformers gives them to a template."""
    found = {}
    for role, token in config.items():
        content = token.get("content") if isinstance(token, Mapping) else token
        if role.endswith(_ROLES) and isinstance(content, str):
            found[role] = content
    for role, index in (("bos_token", tokenizer.bos_id), ("eos_token", tokenizer.eos_id)):
        token = None if index is None else tokenizer.backend.id_to_token(index)
        found.pop(role, None)
        found |= {} if token is None else {role: token}
    return dict(sorted(found.items()))


def _beside(name: str, file: str) -> Path | None:
    """A file that lies beside a tokenizer, in its directory or on the hub; it may not be there."""
    path = expanded(name)
    if path.is_dir():
        try:
            check_files(path)
        except OSError as error:
            raise _unreadable(str(path / file), error) from error
        return path / file
    if path.exists():
        return None  # a SentencePiece model is alone
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    repository, revision = split_revision(name)
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except (EntryNotFoundError, LocalEntryNotFoundError, HFValidationError):  # the second: without a network
        return None


def _read(path: Path, asked: str) -> str:
    try:
        return read_small(path, limit=_MOST_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(asked, error) from error


def _unreadable(name: str, error: BaseException) -> DataError:
    return DataError(f"{name!r} cannot be read ({one_line(error)}). Correct it.", key="template")
