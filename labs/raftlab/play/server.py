"""The web server of `raftlab play`: it serves the page and the session, only to the user who started it.

The server listens on 127.0.0.1. Every address contains a token that nobody can guess, so other users of the machine and
other pages in the browser cannot use the server. Requests that name another host or come from another site are rejected.

Each connection has a thread, but only the thread that calls :meth:`PlayServer.serve` uses the session.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import msgspec

from raftlab.play.session import Refused, Session
from raftlab.runs.run import replay_command
from raftlab.viewer.page import explained

# The maximum length of a request's body, in bytes. The longest requests contain a scenario command.
_MOST_BYTES = 10_000
_POLL_S = 0.1  # seconds after which the thread that listens notices that it must end
# The headers of every answer. The page loads nothing from other sites, and no other page may embed or read it.
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Request(msgspec.Struct):
    """A request of the page.

    Attributes:
        do: what to do: ``look`` changes nothing, ``save`` saves the session, and the others are methods of
            :class:`~raftlab.play.session.Session`.
        since: how many events the page has.
        generation: the generation of the run that these events come from.
        steps: how many of the session's steps the page has.
        to: the time for ``advance`` and ``rewind``, in seconds of the lab's time.
        stop: for ``advance``: whether to return soon after a message was sent.
        line: for ``act``: a scenario command.
        past: for ``act``: the earlier moment at which to carry out the command, in seconds; ``None``: now.
    """

    do: Literal["look", "advance", "step", "act", "rewind", "undo", "reload", "save"]
    since: int = 0
    generation: int = 0
    steps: int = 0
    to: float = 0.0
    stop: bool = True
    line: str = ""
    past: float | None = None


_decode = msgspec.json.Decoder(Request).decode
_json = msgspec.json.Encoder().encode


class PlayServer:
    """The server of one session.

    Args:
        session: the session.
        page: the page's HTML.
        policy: the page's content security policy.
        out: the folder for saved sessions.
        port: the port; 0 means any free port.

    Attributes:
        url: the page's address, with the token.

    Raises:
        OSError: the port cannot be used.
    """

    def __init__(self, session: Session, page: bytes, policy: str, out: Path, port: int = 0) -> None:
        self.session = session
        self.page = page
        self.policy = policy
        self._out = out
        self._saved = (0, 0)  # the generation and the number of steps when the session was last saved
        self.token = secrets.token_urlsafe(24)
        self._work: queue.SimpleQueue[tuple[Callable[[], bytes], Future[bytes]]] = queue.SimpleQueue()
        self._http = _HttpServer(("127.0.0.1", port), _handler_of(self))
        self.port: int = self._http.server_address[1]
        self.hosts = frozenset((f"127.0.0.1:{self.port}", f"localhost:{self.port}"))
        self.url = f"http://127.0.0.1:{self.port}/{self.token}/"
        self._listens = False

    def serve(self, ended: threading.Event | None = None) -> None:
        """Serve until ``ended`` is set, or for ever."""
        threading.Thread(target=self._http.serve_forever, args=[_POLL_S], name="http", daemon=True).start()
        self._listens = True
        while ended is None or not ended.is_set():
            with contextlib.suppress(queue.Empty):
                # The timeout is needed because a signal that arrives just before the wait is noticed only after the wait.
                call, future = self._work.get(timeout=0.1)
                try:
                    future.set_result(call())
                except Exception as exc:
                    future.set_exception(exc)

    def close(self) -> None:
        """Stop listening. Safe to call if :meth:`serve` was never called."""
        if self._listens:
            self._http.shutdown()  # otherwise the listening thread would poll the closed socket without a pause
        self._http.server_close()

    def answer(self, body: bytes) -> bytes:
        """Carry out a request in the thread that calls :meth:`serve`. Returns the answer.

        Raises:
            msgspec.DecodeError: ``body`` is not a :class:`Request`.
        """
        request = _decode(body)
        future: Future[bytes] = Future()
        self._work.put((lambda: self._answer(request), future))
        return future.result()

    def saved(self) -> tuple[str, str]:
        """The file in which the session would be saved: its name and its text."""
        scenario = self.session.scenario()
        first, _, rest = scenario.text().partition("\n")
        return f"{scenario.name}.txt", f"{first}\n# saved by raftlab play; trace {self.session.hash()}\n{rest}"

    @property
    def unsaved(self) -> bool:
        """Whether anything was done since the session was last saved."""
        session = self.session
        return bool(session.steps) and self._saved != (session.generation, len(session.steps))

    def save(self) -> Path:
        """Write the session to a new file. Returns the file's path; raises ``OSError``."""
        self._out.mkdir(parents=True, exist_ok=True)
        name, text = self.saved()
        for number in range(1, 10_000):
            path = self._out / f"{name.removesuffix('.txt')}-{number}.txt"
            with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
                file.write(text)
                self._saved = self.session.generation, len(self.session.steps)
                return path
        raise FileExistsError(f"{self._out} is full of saved sessions")

    def commands_for(self, path: Path) -> list[str]:
        """The commands that can use a saved session, in the form in which a user in the current folder types them."""
        impl = self.session.impl
        replay = replay_command(str(path), impl.path, "sim", "", impl.raft)
        start = "raftlab replay "
        found = [replay, start.replace("replay", "play") + replay.removeprefix(start)]
        if self.session.failure is not None:
            found.append(start.replace("replay", "shrink") + replay.removeprefix(start))
        return found

    def _answer(self, request: Request) -> bytes:
        session = self.session
        message, files = "", []
        try:
            match request.do:
                case "advance":
                    session.advance(request.to, request.stop)
                case "step":
                    session.step()
                case "act":
                    session.act(request.line, request.past)
                case "rewind":
                    session.rewind(request.to)
                case "undo":
                    session.undo()
                case "reload":
                    session.reload()
                case "save":
                    path = self.save()
                    message, files = f"saved as {path}", self.commands_for(path)
                case "look":
                    pass
        except Refused as exc:
            message = str(exc)
        except OSError as exc:
            message = f"{exc.filename or 'a file'} cannot be used: {exc.strerror}"
        return self._state(request, message, files)

    def _state(self, request: Request, message: str, files: list[str]) -> bytes:
        """The part of the session's state that the page does not have yet."""
        session = self.session
        first, events = session.events(request.since, request.generation)
        same = request.generation == session.generation
        steps = session.steps[request.steps :] if same and request.steps <= len(session.steps) else session.steps
        state: dict[str, Any] = {
            "now": session.now,
            "generation": session.generation,
            "first": first,
            "flights": session.in_flight(),
            "held": session.held(),
            "firstStep": len(session.steps) - len(steps),
            "steps": [
                {
                    "line": str(step.command), "began": step.began, "ended": step.ended, "cut": step.cut, "off": step.off,
                    "unreliable": step.unreliable,
                }
                for step in steps
            ],
            "failure": explained(session.failure),
            "canUndo": session.can_undo,
            "message": message,
            "files": files,
        }  # fmt: skip
        return _json(state)[:-1] + b',"events":[' + b",".join(events) + b"]}"


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that the browser has closed. It may close them at any time."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler_of(play: PlayServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60  # seconds for which a connection may be idle

        def do_GET(self) -> None:
            if not self._allowed():
                return
            match self._place():
                case "":
                    headers = {"Content-Security-Policy": f"{play.policy}; frame-ancestors 'none'"}
                    self._send(play.page, "text/html; charset=utf-8", headers)
                case _:
                    self.send_error(HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            if not self._allowed():
                return
            length = self.headers.get("Content-Length", "")
            if self._place() != "do" or self.headers.get_content_type() != "application/json":
                self._refuse(HTTPStatus.NOT_FOUND)
            elif not (length.isascii() and length.isdigit() and int(length) <= _MOST_BYTES):
                self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            else:
                try:
                    answer = play.answer(self.rfile.read(int(length)))
                except msgspec.DecodeError:
                    self._refuse(HTTPStatus.BAD_REQUEST)
                else:
                    self._send(answer, "application/json")

        def _place(self) -> str | None:
            """The part of the address after the token; ``None`` if the token is wrong."""
            token, _, place = self.path.partition("?")[0].removeprefix("/").partition("/")
            return place if secrets.compare_digest(token.encode(), play.token.encode()) else None

        def _allowed(self) -> bool:
            """Whether the request may come from this server's page, or from the address bar of the user's browser. If not,
            answers it with 403."""
            host = self.headers.get("Host", "")
            origin = self.headers.get("Origin")
            site = self.headers.get("Sec-Fetch-Site", "none")
            own = host in play.hosts and origin in (None, f"http://{host}") and site in ("none", "same-origin")
            if not own or self._place() is None:
                self._refuse(HTTPStatus.FORBIDDEN)
                return False
            return True

        def _refuse(self, status: HTTPStatus) -> None:
            self.close_connection = True  # the request's body was not read
            self.send_error(status)

        def _send(self, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
            self.send_response(HTTPStatus.OK)
            for name, value in {**_HEADERS, **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Log nothing, so that the terminal stays quiet."""

    return Handler
