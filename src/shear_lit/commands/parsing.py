"""Keys and values of a command, and what a person reads who mistyped one: the key as typed, the rule, the way out."""

import difflib
import operator
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeGuard, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from shear_lit.commands.failures import UsageError, chain, one_line, said
from shear_lit.commands.table import Command
from shear_lit.disk.names import expanded
from shear_lit.disk.reading import read_yaml
from shear_lit.mistakes import Mistake

_UNKNOWN = object()
"""The type of a key that no command takes."""


class Refused(Exception):
    """What a parser did not take: caught where the command line is known, and said in its words."""

    def __init__(self, message: str, parser: ArgumentParser) -> None:
        super().__init__(message)
        self.parser = parser


class OneLineErrors:
    """For parsers: raise ``Refused``, instead of printing pages of usage and leaving."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The beginning of a key is a mistyped key: another key may begin so in the next version.
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse, unless a parser above tries several readings and wants the error itself."""
        if not self.exit_on_error:  # type: ignore[attr-defined]
            super().error(message, ex)  # type: ignore[misc]
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        raise Refused(message, parser) from ex


class CommandParser(OneLineErrors, ArgumentParser):
    """The parser of the commands that need no Trainer."""


class Given(NamedTuple):
    """A key with its value, as it was typed."""

    key: str
    value: Any
    place: str = ""
    """The config file that it comes from; empty for the command line."""

    @property
    def shown(self) -> str:
        """The key, with the file it stands in."""
        return f"{self.place}: {self.key}" if self.place else self.key


def set_up_parsing(flags: Sequence[str]) -> None:
    """Read the docstrings under fields, their lines of help, only where these are shown: it takes a second."""
    shown = any(word in flag for flag in flags for word in ("help", "print_config"))
    set_parsing_settings(docstring_parse_attribute_docstrings=shown)


def run_function(name: str, command: Command, flags: list[str]) -> Any:
    """Run a command that is a typed function, with the values of its flags and config files."""
    function = command.load()
    parser = parser_of(name, command, function)
    with in_words_of(name, command, flags):
        settings = parser.parse_args(flags)
    values = parser.instantiate_classes(settings)
    values.pop("config", None)
    return function(**values)


def parser_of(name: str, command: Command, function: Callable[..., Any]) -> CommandParser:
    """The parser of a typed function, whose docstring is its help."""
    words = [name, command.action, *(f"[{place.upper()}]" for place in command.places)]
    usage = " ".join(["shear-lit", *(word for word in words if word)])
    parser = CommandParser(prog=usage, description=_first_paragraphs(function.__doc__))
    parser.add_argument(
        "--config", action="config", help="YAML file of keys; what follows it on the command line wins."
    )
    parser.add_function_arguments(function, as_group=False, fail_untyped=False, sub_configs=True)
    return parser


def _first_paragraphs(docstring: str | None) -> str:
    return " ".join((docstring or "").partition("Args:")[0].split())


@contextmanager
def in_words_of(name: str, command: Command, flags: Sequence[str]) -> Iterator[None]:
    """Turn what a parser refuses inside the block into a ``UsageError`` in the words of a command.

    Raises:
        UsageError: a key or value was refused, a config file cannot be read, or a key has another name now.
    """
    given = list(given_keys(flags))  # a config file that cannot be read is said first, by its name
    for each in given:
        _refuse_renamed(command, each)
        if each.value == "":
            raise UsageError(f"{name}: {each.shown} has no value. Give one, or leave the key out.")
        if isinstance(each.value, str) and "\0" in each.value:
            raise UsageError(f"{name}: {each.shown} has a NUL character in it. Remove it.")
    try:
        yield
    except Refused as error:
        what = diagnosis(error, _leaf(error.parser, name), given, command)
        raise UsageError(f"{name}: {what} `shear-lit {name} --help` lists every key.") from error


def _leaf(parser: ArgumentParser, name: str) -> ArgumentParser:
    """The parser of a command: of several, as Lightning builds them, its own."""
    several = parser._subcommands_action
    return parser if several is None else several._name_parser_map.get(name, parser)


def _refuse_renamed(command: Command, given: Given) -> None:
    root, dot, rest = given.key.partition(".")
    if root in command.renamed:
        new = f"{command.renamed[root]}{dot}{rest}"
        raise UsageError(
            f"{given.shown} is now called {new}, as in every other command. Use "
            f"{new if given.place else f'--{new}'}."
        )


# What was typed


def given_keys(flags: Sequence[str]) -> Iterator[Given]:
    """Every key of a command line and of its config files, dotted, in order, with its value.

    Raises:
        UsageError: a config file cannot be read.
    """
    index = 0
    while index < len(flags):
        word = flags[index]
        index += 1
        if not word.startswith("--"):
            raise UsageError(f"{word!r} stands without a key. Write --KEY {word}, or leave it out.")
        key, equals, value = word[2:].partition("=")
        if not equals and index < len(flags) and not flags[index].startswith("--"):
            value, index = flags[index], index + 1
        elif not equals:
            value = None  # type: ignore[assignment]
        if key == "config":
            yield from _keys_of_file(value)
        else:
            yield from _flat(Given(key.removesuffix("+"), _mapping(value)))


def _keys_of_file(name: str | None, key: str = "config") -> Iterator[Given]:
    if name is None:
        raise UsageError(f"{key} has no value: a YAML file is expected. Use --{key} FILE.yaml.")
    path = expanded(name)
    try:
        content = read_yaml(path)
    except FileNotFoundError as error:
        raise UsageError(f"{key}={name!r} does not exist. Correct the path.") from error
    except OSError as error:
        raise UsageError(f"{key}={name!r} cannot be read: {error.strerror}. Name a YAML file.") from error
    except ValueError as error:
        raise UsageError(
            f"{key}={name!r} is no YAML in UTF-8: {one_line(error)} Correct the file."
        ) from error
    if content is None:
        return
    if not isinstance(content, dict):
        raise UsageError(
            f"{key}={name!r} holds {_shown(content)}, and keys with values are expected, one on each line "
            f"(`key: value`). Correct the file."
        )
    yield from _flat(Given("", content, str(name)))


def _mapping(value: str | None) -> Any:
    """What a value in braces says, as the parser reads it; any other value as it is."""
    if value is None or not value.startswith("{"):
        return value
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return found if isinstance(found, dict) else value


def _flat(given: Given) -> Iterator[Given]:
    """A key that holds others gives them; everything else is itself."""
    if not isinstance(given.value, dict) or not given.value:
        yield given
        return
    for name, value in given.value.items():
        key = f"{given.key}.{name}" if given.key else str(name)
        yield from _flat(Given(key, value, given.place))


# What is wrong with it


def diagnosis(refused: Refused, parser: ArgumentParser, given: Sequence[Given], command: Command) -> str:
    """The mistake in one sentence or two: an unknown key, a value of another kind, a key that is missing."""
    mistake = next((link for link in chain(refused) if isinstance(link, Mistake)), None)
    if mistake is not None:
        return said(mistake, command)
    for each in given:
        if _type_of(parser, each.key) is _UNKNOWN:
            return _unknown_key(parser, each)
    for each in given:
        if (wrong := _wrong_value(parser, each)) is not None:
            return wrong
    for key, action in actions_of(parser).items():
        if action.required and not any(f"{each.key}.".startswith(f"{key}.") for each in given):
            return f"{key} is missing. {_help_of(action)} Use --{key} VALUE."
    innermost = [str(refused), *(str(link) for link in chain(refused.__cause__))][-1]
    return " ".join(innermost.split()).rstrip(".") + "."


def _unknown_key(parser: ArgumentParser, given: Given) -> str:
    names = given.key.split(".")
    above = [".".join(names[:depth]) for depth in range(1, len(names) + 1)]
    key = next(key for key in above if _type_of(parser, key) is _UNKNOWN)
    keys = [known for known in dict.fromkeys(all_keys(parser)) if known.count(".") == key.count(".")]
    alike = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    hint = f" Did you mean {alike[0]}?" if alike else ""
    return f"{given._replace(key=key).shown} is no key.{hint}"


def _wrong_value(parser: ArgumentParser, given: Given) -> str | None:
    kind = _type_of(parser, given.key)
    if given.value is None and not given.place:
        return f"{given.key} has no value. Use --{given.key}=VALUE."
    if given.key in (parser.groups or {}) and isinstance(given.value, str):
        list(_keys_of_file(given.value, given.key))
    if kind in (None, _UNKNOWN):
        return None
    try:
        single = ArgumentParser(exit_on_error=False)
        single.add_argument("--value", type=kind)
        if isinstance(given.value, str) and not given.place:
            single.parse_args([f"--value={given.value}"])
        else:
            single.parse_object({"value": given.value})
    except Exception as error:
        mistake = next((link for link in chain(error) if isinstance(link, Mistake)), None)
        if mistake is not None:
            return str(mistake)
        _, problem, what = str(error).rpartition("Problem with given class_path ")
        if problem:  # a class that the user names lacks something, which jsonargparse says last
            return f"{given.shown}: {' '.join(what.split()).partition(' - ')[0].rstrip('.')}. Correct it."
        default = _default_of(parser, given.key)
        example = "" if default is None or isinstance(default, dict) else f", such as {default}"
        return f"{given.shown}={_shown(given.value)}: {in_words(kind)} is expected{example}. Correct it."
    return None


def _default_of(parser: ArgumentParser, key: str) -> Any:
    action = actions_of(parser).get(key)
    return None if action is None else action.default


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 120 else f"{words[:100]}... ({len(words):,} characters)"


def _help_of(action: Any) -> str:
    words = (action.help or "It has no default").replace("%%", "%").partition(" (required")[0]
    return " ".join(words.split()).rstrip(".") + "."


# What a parser takes


def actions_of(parser: ArgumentParser) -> dict[str, Any]:
    """The options of a parser, by key, without those that hold a group of them."""
    groups = parser.groups or {}
    return {
        action.dest: action
        for action in parser._actions
        if action.dest not in ("help", "==SUPPRESS==") and action.dest not in groups
    }


def all_keys(parser: ArgumentParser) -> Iterator[str]:
    """Every key of a parser, with those below keys that hold others."""
    for key, action in actions_of(parser).items():
        if key.endswith(".help") or key == "print_config":
            continue
        yield key
        for name in _names_below(hint_of(action)):
            yield f"{key}.{name}"


def _names_below(kind: Any) -> Iterator[str]:
    for settings in settings_in(kind):
        for name, hint in fields_of(settings).items():
            yield name
            for below in _names_below(hint):
                yield f"{name}.{below}"


def hint_of(action: Any) -> Any:
    """The type of an option's value."""
    return getattr(action, "_typehint", None) or getattr(action, "type", None)


def _type_of(parser: ArgumentParser, key: str) -> Any:
    """The type of a key's value; None where it is anything, or a group; ``_UNKNOWN`` where there is no such key."""
    actions = actions_of(parser)
    if key in actions:
        return hint_of(actions[key])
    if any(known.startswith(f"{key}.") for known in actions) or key in ("help", "h"):
        return None
    above = [known for known in actions if key.startswith(f"{known}.")]
    if not above:
        return _UNKNOWN
    owner = max(above, key=len)
    return _below(hint_of(actions[owner]), key.removeprefix(f"{owner}.").split("."))


def _below(kind: Any, names: Sequence[str]) -> Any:
    """The type of a value inside another one."""
    if not names:
        return kind
    for settings in settings_in(kind):
        known = fields_of(settings)
        return _below(known[names[0]], names[1:]) if names[0] in known else _UNKNOWN
    for option in _options(kind):
        origin = get_origin(option) or option
        if isinstance(origin, type) and issubclass(origin, Mapping):
            values = get_args(option)[1:]
            # A name may have dots in it.
            return None if not values else values[0] if _is_plain(values[0]) else _below(values[0], names[1:])
    return (
        _UNKNOWN if _is_plain(kind) else None
    )  # below a class that the user names lies what that class takes


def _is_plain(kind: Any) -> bool:
    return all(option in (int, float, str, bool, types.NoneType) for option in _options(kind))


def _options(kind: Any) -> tuple[Any, ...]:
    """The types of which a value may have any."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(option for each in get_args(kind) for option in _options(each))
    return (kind,)


def settings_in(kind: Any) -> list[type]:
    """The classes of settings that a value may be of."""
    return [option for option in _options(kind) if _is_settings(option)]


def _is_settings(kind: Any) -> TypeGuard[type]:
    return isinstance(kind, type) and is_dataclass(kind)


def fields_of(settings: type) -> dict[str, Any]:
    """The fields of a class of settings, with their types."""
    hints = get_type_hints(settings)
    return {field.name: hints[field.name] for field in fields(settings)}


def choices_of(kind: Any) -> list[str]:
    """The words of which a value must be one; none where it may be anything else."""
    found: list[str] = []
    for option in _options(kind):
        if get_origin(option) is Literal:
            found += [str(word) for word in get_args(option)]
        elif option is bool:
            found += ["true", "false"]
        elif option is not types.NoneType:
            return []
    return found


def in_words(kind: Any) -> str:
    """What values a type has, for a person who never saw a type."""
    options = [option for option in _options(kind) if option is not types.NoneType]
    words = " or ".join(dict.fromkeys(_in_words(option) for option in options))
    return f"{words}, or null," if len(options) < len(_options(kind)) else words


_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_RESTRICTED = {
    operator.gt: "above",
    operator.ge: "at least",
    operator.lt: "below",
    operator.le: "at most",
    operator.eq: "exactly",
}


def _in_words(kind: Any) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin = get_origin(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(each.value for each in kind)}"
    if _is_settings(kind):
        return f"keys below it ({', '.join(fields_of(kind))})"
    restriction = getattr(kind, "_restrictions", None)
    if restriction is not None:
        rules = f" {kind._join} ".join(
            f"{_RESTRICTED[comparison]} {limit}" for comparison, limit in restriction
        )
        return f"{_PLAIN[kind._type]} {'of ' if rules.startswith('at') else ''}{rules}"
    if isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        inner = next((each for each in get_args(kind) if each is not Ellipsis), None)
        return "a list" if inner is None else f"a list, each of it {in_words(inner)}"
    if isinstance(origin or kind, type) and issubclass(origin or kind, Mapping):
        inner = get_args(kind)[1:]
        return (
            f"a mapping of names to values, each {in_words(inner[0])}"
            if inner
            else "a mapping of names to values"
        )
    return f"the class_path of a {getattr(kind, '__name__', kind)}"
