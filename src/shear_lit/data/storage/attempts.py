"""What is asked of remote storage is asked again after a wait, unless that is of no use."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

RETRIED = (408, 425, 429)
"""Of the HTTP statuses that blame the request: time-outs and "not so fast"."""
ATTEMPTS = 8
"""How often an object is asked for by default."""
LONGEST_WAIT_SECONDS = 60
"""The waits between attempts double from 1 second up to this."""

Result = TypeVar("Result")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES)
_log = logging.getLogger(__name__)


class FinalError(Exception):
    """An answer that will be the same however often one asks."""


class StorageError(Exception):
    """What could not be had; the message says why, and ``code`` what the storage calls it."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


def attempted(ask: Callable[[], Result], name: str, attempts: int = ATTEMPTS) -> Result:
    """What ``ask`` gives, which is called up to ``attempts`` times, with waits; ``name`` is the object's in the log.

    Raises:
        StorageError: it failed each time, or for a reason that no attempt will change.
    """
    for attempt in range(1, attempts + 1):
        try:
            return ask()
        except Exception as error:  # each storage has errors of its own
            error = cause_of(error)
            if attempt == attempts or is_final(error):
                times = "" if is_final(error) else f" in {attempt} attempts"
                raise StorageError(f"{said(error)}{times}", code_of(error)) from error
            seconds = wait_before(attempt)
            message = "%s: attempt %d of %d failed (%s); the next in %d s"
            _log.warning(message, name, attempt, attempts, said(error), seconds)
            time.sleep(seconds)
    raise AssertionError("there is at least one attempt")


def wait_before(attempt: int) -> int:
    """Seconds to wait after attempt number ``attempt`` has failed."""
    return int(min(2 ** (attempt - 1), LONGEST_WAIT_SECONDS))


def is_final(error: Exception) -> bool:
    """Whether asking again would be of no use."""
    from botocore.exceptions import NoCredentialsError, ParamValidationError, PartialCredentialsError

    final = (ImportError, FinalError, NoCredentialsError, PartialCredentialsError, ParamValidationError)
    if isinstance(error, final) or type(error) is FileNotFoundError:
        return True
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in RETRIED


def cause_of(error: Exception) -> Exception:
    """What boto3 says of an upload that failed has the reason behind it."""
    from boto3.exceptions import S3UploadFailedError

    behind = error.__cause__ or error.__context__
    return behind if isinstance(error, S3UploadFailedError) and isinstance(behind, Exception) else error


def code_of(error: Exception) -> str:
    """What the storage calls the error: its own word, or the HTTP status, or the name of the exception."""
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(found or _status(error) or type(error).__name__)


def said(error: Exception) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _status(error: Exception) -> int | None:
    """The HTTP status in an error of the libraries for S3, for the hub, or for Google's storage."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = getattr(response, "status_code", None) if response is not None else getattr(error, "code", None)
    return found if isinstance(found, int) else None
