"""A worker process of ``prepare``: tokenises the pieces of work that come on its standard input.

The first line is the settings as JSON. Each further one is a request ``{"task": …, "spool": path, "block": bytes}``,
followed by so many bytes of lines; the answer is one line of JSON on standard output. The process ends with its input,
or with the process that started it.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from shear_lit.data.errors import DataError
from shear_lit.data.tokens.encoding import Tokenising, UnitTokenizer

_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux

Answer = dict[str, Any]
"""``{"record": …}`` of a spool file, or why there is none: ``data`` and its ``key``, ``disk`` or ``crash``."""


def answer(tokenizer: UnitTokenizer, request: Mapping[str, Any], block: bytes) -> Answer:
    """Do the piece of work ``request``; what goes wrong is told, not raised."""
    try:
        return {"record": asdict(tokenizer.write(request["task"], block, Path(request["spool"])))}
    except DataError as error:
        return {"data": str(error.args[0]), "key": error.key}
    except OSError as error:
        return {"disk": error.errno, "message": error.strerror or str(error)}
    except ModuleNotFoundError as error:
        return {"crash": str(error)}
    except MemoryError:
        return {"crash": "out of memory"}


def settings_of(line: bytes | str) -> Tokenising:
    """The settings that a line of JSON holds."""
    content = json.loads(line)
    return Tokenising(**{**content, "before": tuple(content["before"]), "after": tuple(content["after"])})


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until they end."""
    parent = os.getppid()
    tokenizer = UnitTokenizer(settings_of(requests.readline()))
    while (line := requests.readline()) and os.getppid() == parent:
        request = json.loads(line)
        block = requests.read(request["block"])
        try:
            found = answer(tokenizer, request, block)
        except Exception:
            found = {"crash": traceback.format_exc()}
        answers.write(json.dumps(found).encode() + b"\n")
        answers.flush()


def end_with_parent() -> None:
    """Have the system end this process as soon as the one that started it ends, where it can; and not on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    with suppress(BrokenPipeError):  # nobody is left to be told
        serve(sys.stdin.buffer, sys.stdout.buffer)
