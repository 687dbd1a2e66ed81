"""A server of one page, for browsers on this machine alone: other paths, names and methods get nothing."""

import logging
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any, cast

from shear_lit.commands.run_choice import read_runs
from shear_lit.mistakes import Mistake
from shear_lit.reporting.run_page.page import run_page

_ADDRESS = "127.0.0.1"
_PATIENCE_SECONDS = 10
_log = logging.getLogger(__name__)


def written(places: Sequence[tuple[Path, str]], refresh_seconds: int) -> str:
    """The page of the runs as they are now; it asks for itself again as long as one of them has not ended.

    Raises:
        RunReadError: one is no directory of a run.
    """
    runs = read_runs(places)
    return run_page(runs, refresh_seconds=0 if all(run.ended for run in runs) else refresh_seconds)


class PageServer(ThreadingHTTPServer):
    """Serves one page at ``/``, written anew when somebody asks and it is old."""

    daemon_threads = True

    def __init__(self, port: int, page: str, write: Callable[[], str], refresh_seconds: int) -> None:
        """Listen at a port of 127.0.0.1.

        Raises:
            OSError: it is taken.
        """
        super().__init__((_ADDRESS, port), _Answer)
        self._page, self._write, self._refresh_seconds = page, write, refresh_seconds
        self._written, self._lock = time.monotonic(), Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """What browsers of this machine call it; a page of another site that has a name point here is refused."""
        return tuple(f"{host}:{self.server_port}" for host in (_ADDRESS, "localhost"))

    def page(self) -> str:
        """The page, not older than it may be; the last one where the run's directory cannot be read just now."""
        with self._lock:
            if time.monotonic() - self._written >= self._refresh_seconds:
                try:
                    self._page = self._write()
                except (Mistake, OSError) as error:
                    _log.warning("WARNING: %s", error)
                self._written = time.monotonic()
            return self._page


class _Answer(BaseHTTPRequestHandler):
    timeout = _PATIENCE_SECONDS

    def do_GET(self) -> None:
        """Answer with the page."""
        server = cast(PageServer, self.server)
        if self.headers.get("Host") not in server.names:
            self._answer(HTTPStatus.FORBIDDEN, "This page is for browsers on its own machine.")
        elif self.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, "There is only one page here: /")
        else:
            self._answer(HTTPStatus.OK, server.page(), kind="text/html")

    def _answer(self, status: HTTPStatus, said: str, *, kind: str = "text/plain") -> None:
        content = said.encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        """Nothing about the machine."""
        return "shear-lit"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""
