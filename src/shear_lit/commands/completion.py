"""``shear-lit completion``: a script with which a shell completes commands and keys."""

import argparse
from collections.abc import Iterator
from typing import Any, Literal

from shear_lit.commands.table import COMMANDS, Command


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> str:
    """Print a script that completes commands, keys and choices: source it where the shell starts.

    bash: `shear-lit completion bash > ~/.local/share/bash-completion/completions/shear-lit`;
    zsh: `shear-lit completion zsh > ~/.zfunc/_shear-lit`, with that folder in `fpath`.

    Args:
        shell: The shell that will read it.
    """
    import shtab

    program = argparse.ArgumentParser(prog="shear-lit")
    commands = program.add_subparsers()
    for name, command in COMMANDS.items():
        parser = commands.add_parser(name, help=command.line)
        if command.action:
            parser.add_argument("action", choices=[command.action, *command.actions])
        for key, options in _options(name, command).items():
            parser.add_argument(f"--{key}", **options)
    script: str = shtab.complete(program, shell)
    return script


def _options(name: str, command: Command) -> dict[str, dict[str, Any]]:
    """The keys of a command and of what it becomes, with what is completed after them."""
    return {
        key: options
        for each in (command, *command.variants.values(), *command.actions.values())
        for parser in _parsers(name, each)
        for key, options in _keys(parser)
    }


def _parsers(name: str, command: Command) -> Iterator[Any]:
    from shear_lit.commands.parsing import parser_of

    if not command.trains:
        yield parser_of(name, command, command.load())
        return
    from shear_lit.commands.fit import training_parser

    yield training_parser(name)


def _keys(parser: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    from shear_lit.commands.parsing import actions_of, all_keys, choices_of, hint_of

    known = actions_of(parser)
    for key in all_keys(parser):
        action = known.get(key)
        words = " ".join((getattr(action, "help", None) or "").replace("%", "").split())
        options: dict[str, Any] = {"help": words[:80]}
        choices = None if action is None else choices_of(hint_of(action))
        if choices:
            options["choices"] = choices
        yield key, options
