"""The child process that runs one server on the real network, with Python's own threads and a connection to the judge."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import random
import socket
import sys
import threading
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from raftlab import api
from raftlab.host.loader import Program
from raftlab.host.output import Sink, Stdout, route_logging
from raftlab.host.rpyc_server import Outbox, RpycServer
from raftlab.host.stdlib import RefusedCall
from raftlab.messages import protocol
from raftlab.messages.rpyc_connection import BytesConnection
from raftlab.seeds import derive

# Seconds after which Python lets another thread run. Each server draws one of these. With the first, Python's
# default, a thread nearly always gets from one lock to the next without interruption. The others expose locking
# mistakes.
_SWITCH_INTERVALS = (0.005, 0.000_5, 0.000_01)


class StudentFinder(MetaPathFinder, InspectLoader):
    """Finds the submission's modules for ``import``, before any other finder does.

    They are the same modules as in the simulator, and their files have the same short names in tracebacks. So reports
    read the same in both worlds, and show no paths of the machine."""

    def __init__(self, program: Program) -> None:
        self._modules = program.submission.modules
        self._module_of_role = program.submission.module_of_role
        self._installed = False
        self.names = {name: program.filename(path) for name, path in self._modules.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file: Path | None = self._modules.get(fullname)
        if file is None:
            return None
        package = file.name == "__init__.py"
        spec = importlib.util.spec_from_loader(fullname, self, origin=self.names[fullname], is_package=package)
        assert spec is not None
        spec.has_location = True  # gives the module its `__file__`
        return spec

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._modules[fullname].read_bytes(), self.names[fullname], "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str:
        """The source text, which tracebacks need to show the line."""
        return importlib.util.decode_source(self._modules[fullname].read_bytes())

    def load(self, name: str) -> ModuleType:
        """Import the submission's module that the contract calls ``"raft"`` or ``"kv"``. Exceptions from its code
        propagate."""
        if not self._installed:
            self._installed = True
            for own_name in self._modules:
                # The framework may have imported a module of the same name. The student's module takes precedence.
                sys.modules.pop(own_name, None)
            sys.meta_path.insert(0, self)
        return importlib.import_module(self._module_of_role(name))


class RpycHost:
    """Connects the server of this process to the judge. :meth:`serve` handles the judge's events. Each effect is sent by the
    thread that causes it."""

    def __init__(self, program: Program, sock: socket.socket) -> None:
        self._program = program
        self._decode = protocol.decoder(list[protocol.Event]).decode
        self._connection = BytesConnection(sock, self._deliver)
        self._outbox = Outbox(self._connection)
        self._server: RpycServer | None = None

    def serve(self) -> None:
        """Handle events until the judge closes the connection (``EOFError``)."""
        while True:
            self._connection.receive()

    def _deliver(self, data: bytes) -> None:
        for event in self._decode(data):
            self._handle(event)

    def _handle(self, event: protocol.Event) -> None:
        server = self._server
        if server is None:
            if isinstance(event, protocol.Boot):
                self._boot(event)
            return
        match event:
            case protocol.Request() | protocol.Call():
                server.deliver(event)
            case protocol.Reply():
                server.reply(event)
            case protocol.SlowApply():
                server.slow_apply = event.seconds
            case protocol.Taken():
                server.taken(event)
            case protocol.FailSaves():
                server.fail_saves(event.count)
            case protocol.ListThreads():
                server.list_threads()

    def _boot(self, boot: protocol.Boot) -> None:
        finder = StudentFinder(self._program)
        files = frozenset(finder.names.values())
        self._server = server = RpycServer(boot, files, finder.load, self._outbox)
        sink = Sink(lambda topic, text: server.emit(protocol.LogLine(server.id, topic, text)))
        streams: Any = sys
        streams.stdout = Stdout(sink.log, "print", threading.get_ident)
        streams.stderr = Stdout(sink.log, "stderr", threading.get_ident)
        api._sink = sink.log
        route_logging(logging, sink.log)
        sys.breakpointhook = self._refuse_breakpoint
        threading.excepthook = self._thread_died
        sys.unraisablehook = self._unraisable
        sys.setswitchinterval(random.Random(derive(boot.seed, "switch interval")).choice(_SWITCH_INTERVALS))
        server.start()

    def _refuse_breakpoint(self, *args: object, **named: object) -> None:
        if self._server is not None:
            self._server.no_debugger()
            raise RefusedCall("breakpoint() does not work on the real network")

    def _thread_died(self, args: Any) -> None:
        if args.exc_type is not SystemExit and self._server is not None:
            role = f"thread {args.thread.name!r}" if args.thread else "a thread"
            self._server.uncaught(args.exc_value, role)

    def _unraisable(self, args: Any) -> None:
        """Handle an exception that cannot propagate: report it if it ended a thread started with ``_thread``, else
        print it."""
        if "in thread started by" in (args.err_msg or "") and self._server is not None:
            self._server.uncaught(args.exc_value, "a thread")
        else:
            sys.__unraisablehook__(args)


def run(program: Program, spawn: protocol.StartChild, fds: list[int]) -> None:
    """Run a server until the judge closes the connection (``EOFError``) or kills this process."""
    (fd,) = fds
    random.seed()  # all servers are forked from one process and would otherwise share its generator's state
    RpycHost(program, socket.socket(fileno=fd)).serve()
