"""Handing over to the server that transformers brings: OpenAI's paths on 127.0.0.1, for the one directory given."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from shear_lit.commands.failures import UsageError
from shear_lit.disk.names import expanded
from shear_lit.models.huggingface import read_config
from shear_lit.models.source_files import is_local

_ADDRESS = "127.0.0.1"
NEEDED = ("fastapi", "uvicorn", "pydantic", "openai")
_log = logging.getLogger(__name__)


def hand_over(models: Sequence[str], *, port: int, dtype: str, device: str) -> NoReturn:
    """Become ``transformers serve``; nothing of this program is left.

    Raises:
        UsageError: it cannot be asked for this, or is not installed.
        SourceError: the directory holds no model.
    """
    command = serving(models, port=port, dtype=dtype, device=device)
    _log.info("http://%s:%d/v1 answers for %s; Ctrl-C ends it", _ADDRESS, port, command[4])
    sys.stdout.flush()
    os.execve(sys.executable, command, environment())


def serving(models: Sequence[str], *, port: int, dtype: str, device: str) -> list[str]:
    """The command that serves one model; as ``hand_over``."""
    if len(models) > 1:
        raise UsageError(f"models={list(models)}: one server has one model. Name one, or start one for each.")
    if not 0 < port < 1 << 16:
        raise UsageError(f"port={port}: a port is a whole number from 1 to 65535. Use one from 1024 on.")
    if not is_local(models[0]):
        raise UsageError(
            f"models: {models[0]!r} is no directory: a server is given one, so that no request chooses the model. "
            f"Name a directory."
        )
    read_config(models[0], for_training=False)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UsageError(
            f"serve: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, which `transformers "
            f"serve` needs. Type: pip install 'shear-lit[serve]'"
        )
    place = str(expanded(models[0]).resolve())
    settings = {
        "host": _ADDRESS,
        "port": str(port),
        "dtype": "auto" if dtype == "source" else dtype,
        "device": device,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "transformers.cli.transformers", "serve", place, *flags]


def environment() -> dict[str, str]:
    """This process's, in which the hub is not asked: a request may name another model, which is not fetched then."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
