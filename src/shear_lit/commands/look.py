"""``shear-lit look``: the page of a run in a browser, written anew while the run goes on."""

import logging

from shear_lit.commands.failures import UsageError
from shear_lit.disk.names import expanded

_log = logging.getLogger(__name__)


def look(run: str, other: str | None = None, port: int = 8017, refresh_seconds: int = 30) -> None:
    """Serve the page of a run, or of two, to browsers on this machine, until it is interrupted with Ctrl-C.

    Args:
        run: Directory of a run, or of a demo.
        other: A second run, beside the first.
        port: Port of 127.0.0.1; 0: any that is free.
        refresh_seconds: How old the page may be before it is written anew, and how often a browser asks again while
            a run goes on.
    """
    if not 0 <= port < 1 << 16:
        raise UsageError(f"port={port}: a port is a whole number from 0 to 65535. Use one from 1024 on.")
    if refresh_seconds < 1:
        raise UsageError(
            f"refresh_seconds={refresh_seconds}: a page is at least a second old. Use 1 or more."
        )
    places = [(expanded(run), "run"), *([] if other is None else [(expanded(other), "other")])]
    from shear_lit.commands.page_server import PageServer, written

    page = written(places, refresh_seconds)  # all refusals, before anything is served
    try:
        server = PageServer(port, page, lambda: written(places, refresh_seconds), refresh_seconds)
    except OSError as error:
        raise UsageError(f"port={port}: {error.strerror or error}. Use another one, or 0 for any.") from error
    _log.info("http://127.0.0.1:%d shows it; Ctrl-C ends this", server.server_port)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
