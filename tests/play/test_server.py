"""Tests that the server of `raftlab play` answers only its own page, and tests of its answers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from raftlab.play.page import page
from raftlab.play.server import PlayServer
from raftlab.play.session import Session
from raftlab.runs.run import Implementation
from raftlab.runs.scenario import Scenario
from tests.conftest import SOLUTION

BAD = "</script><img src=x onerror=alert(1)>"


@contextmanager
def serving(session: Session, out: Path) -> Iterator[PlayServer]:
    """Serve a session in another thread."""
    server = PlayServer(session, *page({**session.info, "impl": BAD}), out)
    ended = threading.Event()
    thread = threading.Thread(target=server.serve, args=[ended])
    thread.start()
    try:
        yield server
    finally:
        ended.set()
        thread.join()
        server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayServer]:
    folder = tmp_path_factory.mktemp("play")
    with closing(Implementation(SOLUTION.parent)) as impl:
        session = Session(impl, Scenario("2B", "play_2B", 0, 3, schedule="none"))
        with closing(session), serving(session, folder) as server:
            yield server


def ask(server: PlayServer, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        given.setdefault("Content-Type", "application/json")
    with closing(connection):
        connection.request(method, path, body, given)
        response = connection.getresponse()
        return response.status, response.read(), response.headers


def do(server: PlayServer, **request: Any) -> dict[str, Any]:
    status, body, _ = ask(server, "POST", f"/{server.token}/do", json.dumps(request).encode())
    assert status == 200
    answer: dict[str, Any] = json.loads(body)
    return answer


def test_the_page_is_served_with_safe_headers(server: PlayServer) -> None:
    status, body, headers = ask(server, "GET", f"/{server.token}/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert b"<img src=x" not in body
    assert b"<!-- " not in body


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 403),
        ("/wrong/", {}, 403),
        ("/{token}x/", {}, 403),
        ("/{token}/../", {}, 404),
        ("/{token}/", {"Host": "evil.example"}, 403),  # a name that its owner has made to point to 127.0.0.1
        ("/{token}/", {"Host": "evil.example:{port}"}, 403),
        ("/{token}/", {"Origin": "http://evil.example"}, 403),
        ("/{token}/", {"Origin": "null"}, 403),
        ("/{token}/", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/{token}/", {"Sec_Fetch_Site": "same-site"}, 403),  # sent by a page from another port of this machine
        ("/{token}/", {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"}, 200),
    ],
)
def test_requests_from_other_pages_are_refused(
    server: PlayServer, path: str, headers: dict[str, str], status: int
) -> None:
    def filled(text: str) -> str:
        return text.format(token=server.token, port=server.port)

    named = {name: filled(value) for name, value in headers.items()}
    assert ask(server, "GET", filled(path), **named)[0] == status
    if status == 403:
        assert ask(server, "POST", filled(path) + "do", b'{"do":"look"}', **named)[0] == 403


def test_malformed_requests_are_refused(server: PlayServer) -> None:
    path = f"/{server.token}/do"
    assert ask(server, "POST", path, b"{")[0] == 400
    assert ask(server, "POST", path, b'{"do":"close"}')[0] == 400
    assert ask(server, "POST", path, b'{"do":"look"}', Content_Type="text/plain")[0] == 404
    assert ask(server, "POST", path, b" " * 20_000)[0] == 413


def test_answers_have_events_messages_and_steps(server: PlayServer) -> None:
    first = do(server, do="look")
    assert first["events"][0]["e"] == "boot"
    known = len(first["events"])
    more = do(server, do="advance", to=1.0, stop=False, since=known, generation=first["generation"])
    assert more["first"] == known
    assert any(event["e"] == "send" for event in more["events"])
    refused = do(server, do="act", line="transfer S0 to S1")
    assert refused["message"].startswith("transfer is for lab 2G")
    acted = do(server, do="act", line="cut S0 S1")
    assert acted["steps"][-1]["cut"] == [[0, 1]]
    saved = do(server, do="save")
    text = Path(saved["message"].removeprefix("saved as ")).read_text()
    assert text.endswith("\ncut S0 S1\n----\npassed\n")
    assert [command.split()[1] for command in saved["files"]] == ["replay", "play"]


def test_no_thread_goes_on_after_the_server_is_closed(tmp_path: Path) -> None:
    """Such a thread would poll the closed socket without a pause, and slow down all later tests of the same process."""
    before = set(threading.enumerate())
    with closing(Implementation(SOLUTION.parent)) as impl:
        session = Session(impl, Scenario("2B", "play_2B", 0, 3, schedule="none"))
        with closing(session), serving(session, tmp_path) as server:
            assert ask(server, "GET", f"/{server.token}/")[0] == 200
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread
