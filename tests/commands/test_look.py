"""``shear-lit look``: one page, for browsers on this machine."""

import http.client
import os
import re
import signal
import socket
import threading

import pytest

from shear_lit import cli
from shear_lit.commands.page_server import PageServer, written
from tests.reporting.shown_runs import Shown
from tests.training import forks

REQUESTS = 1000 if os.environ.get("SHEAR_LIT_LOOKS") == "all" else 60


@pytest.fixture
def served():
    """A server of a page that counts how often it was written."""
    count = iter(range(1, 1_000_000))
    server = PageServer(0, "page 0", lambda: f"page {next(count)}", 3600)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def asked(server, path="/", host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


pytestmark = pytest.mark.enable_socket


def test_page_is_served_by_both_names_of_this_machine(served):
    assert asked(served) == (200, "page 0")
    assert asked(served, host=f"localhost:{served.server_port}") == (200, "page 0")


@pytest.mark.parametrize(
    "path", ["/config.yaml", "/../metrics.csv", "/%2e%2e/", "/x//", "/?run=/etc", "/index.html", "*"]
)
def test_other_paths_are_not_found(served, path):
    assert asked(served, path)[0] == 404


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "127.0.0.1:1", "evil.127.0.0.1:80", " "])
def test_other_hosts_are_refused(served, host):
    assert asked(served, host=host)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_are_not_there(served, method):
    assert asked(served, method=method)[0] == 501


def test_it_listens_on_this_machine_alone(served):
    assert served.server_address[0] == "127.0.0.1"


def test_server_is_alive_after_many_requests_and_broken_ones(served):
    """1,000 of them in ``make looks``."""
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", served.server_port)) as broken:
            broken.sendall(os.urandom(64) + b"\r\n\r\n")
    assert all(asked(served)[0] == 200 for _ in range(REQUESTS))


def test_old_page_is_written_anew_and_kept_where_that_fails(served):
    served._refresh_seconds = 0
    assert [asked(served)[1] for _ in range(2)] == ["page 1", "page 2"]

    def fail():
        raise FileNotFoundError("the disk is away")

    served._write = fail
    assert asked(served) == (200, "page 2")


def test_page_asks_for_itself_again_until_the_run_has_ended(tmp_path):
    goes_on = written([(Shown(taken=20).write(tmp_path / "on"), "run")], 7)
    ended = written([(Shown().write(tmp_path / "ended"), "run")], 7)
    assert 'http-equiv="refresh" content="7"' in goes_on and "refresh" not in ended


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{place}/nowhere"], "run='{place}/nowhere' is no directory"),
        (["{place}/run", "--port=70000"], "port=70000: a port is a whole number"),
        (["{place}/run", "--refresh_seconds=0"], "refresh_seconds=0: a page is at least a second old"),
    ],
)
def test_wrong_look_is_refused(tmp_path, capsys, words, said):
    Shown().write(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        cli.main(["look", *(word.format(place=tmp_path) for word in words)])
    assert ended.value.code == 2
    assert said.format(place=tmp_path) in capsys.readouterr().err


def test_port_that_is_taken_is_refused(tmp_path, capsys, served):
    Shown().write(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        cli.main(["look", str(tmp_path / "run"), f"--port={served.server_port}"])
    assert (
        ended.value.code == 2
        and f"port={served.server_port}: Address already in use" in capsys.readouterr().err
    )


def test_command_without_words_shows_a_first_run(capsys):
    cli.main([])
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 10 and max(map(len, said.splitlines())) <= 110
    assert all(f"shear-lit {name}" in said for name in ("demo", "prepare", "fit", "export", "compare"))


def test_command_serves_until_it_is_interrupted(tmp_path):
    run = Shown(taken=20, running=True).write(tmp_path / "run")
    looking = forks.start(cli.main, tmp_path / "log", arguments=["look", str(run), "--port=0"])
    log = tmp_path / "log" / "0.log"
    try:
        looking.until(lambda: log.exists() and "shows it" in log.read_text())
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        connection.close()
        assert "it goes on" in page and 'http-equiv="refresh" content="30"' in page
        os.kill(looking.workers[0].pid, signal.SIGINT)
        assert looking.wait() == [None]
    finally:
        looking.kill()
