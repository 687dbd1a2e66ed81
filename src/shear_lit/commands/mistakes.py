"""What a person reads after a mistake on the command line: one line with the key, the rule and the way out."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from shear_lit.mistakes import Mistake
from shear_lit.pruning.settings import ExactGates, Pruning
from shear_lit.theory.shape import ModelShape, ShapeError

_PACKAGE = "shear_lit."
_UNKNOWN = (
    re.compile(r"unrecognized arguments: (?:--)?([\w.]+)"),
    re.compile(r"[Oo]ption '([^']+)'(?: is not accepted)?"),
)


class UsageError(Mistake):
    """Something on the command line or in a config file that no command takes."""


class OneLineErrors:
    """For parsers: raise a ``UsageError`` of one line, instead of printing pages of usage and leaving."""

    target_key = "model.pruning.target"
    """What the user knows the target's shape by."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The beginning of a key is a mistyped key: another key may begin so in the next version.
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse, unless a parser above tries several readings and wants the error itself."""
        if not self.exit_on_error:  # type: ignore[attr-defined]
            super().error(message, ex)  # type: ignore[misc]
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        raise UsageError(_one_line(message, ex, parser.format_help(), self.target_key)) from ex


class CommandParser(OneLineErrors, ArgumentParser):
    """The parser of the commands that need no Trainer."""

    target_key = "target"


def own_message(error: BaseException, target_key: str = OneLineErrors.target_key) -> str | None:
    """What the package itself said in a chain of errors: libraries wrap what a settings class raises."""
    for link in chain(error):
        if type(link).__module__.startswith(_PACKAGE) and isinstance(link, ValueError):
            if isinstance(link, ShapeError):
                return _with_whole_key(str(link), target_key)
            return _without_worker(link)
    return None


def _without_worker(error: ValueError) -> str:
    """The message of an error that a worker process may have raised: torch puts the worker's traceback before it."""
    message = str(error)
    if not message.startswith("Caught "):
        return message
    return message.rpartition(f"{type(error).__name__}: ")[2].strip()


def _with_whole_key(message: str, target_key: str) -> str:
    """A shape does not know which key it was given for; of a command line's there is one."""
    if message.startswith("target."):
        return message.replace("target", target_key, 1)
    name = message.partition("=")[0]
    return f"{target_key}.{message}" if name in {field.name for field in fields(ModelShape)} else message


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(message: str, error: Exception | None, usage: str, target_key: str) -> str:
    said = None if error is None else own_message(error, target_key)
    if said is not None:
        return said
    key = re.search(r'(?:Parser k|K)ey "([^"]+)"', message)
    innermost = [message, *(str(link) for link in chain(error))][-1]
    for pattern in _UNKNOWN:
        unknown = pattern.search(innermost)
        if unknown:
            return _unknown_key(_joined(key, unknown[1]), usage)
    detail = re.sub(r"<class '([^']+)'>", r"\1", " ".join(innermost.split()))
    detail = detail.replace("a typing.Literal", "one of ").rstrip(".")
    return f"{key[1]}: {detail}." if key and f'"{key[1]}"' not in detail else f"{detail}."


def _joined(key: re.Match[str] | None, name: str) -> str:
    return name if key is None or name.startswith(f"{key[1]}.") else f"{key[1]}.{name}"


def _unknown_key(name: str, usage: str) -> str:
    keys = {key for key in re.findall(r"--([a-z_][\w.]*)", usage) if not key.endswith(".help")}
    if "model.pruning" in keys:  # null or a group of keys: help does not list the group
        keys |= {f"model.pruning.{field.name}" for field in fields(Pruning)}
        keys |= {f"model.pruning.target.{field.name}" for field in fields(ModelShape)}
        keys |= {f"model.pruning.exact.{field.name}" for field in fields(ExactGates)}
    alike = difflib.get_close_matches(name, sorted(keys), n=1, cutoff=0.7)
    hint = f" Did you mean {alike[0]}?" if alike else ""
    return f"{name} is no key.{hint}"


def refusal(command: str, message: Any) -> str:
    """The line for a person, with the way to more."""
    return f"error: {command}: {message} `shear-lit {command} --help` lists every key."
