"""Python's own threading library in virtual time: fresh copies of it over the substitute primitives.

``threading``, ``queue`` and ``concurrent.futures`` are plain Python over ``_thread`` and ``time``. Imported while
``sys.modules`` holds our substitutes for these two, fresh copies of them run in virtual time with not a line changed;
the process's real modules are put back afterwards. What cannot be made deterministic is refused, by name.

The copies are made once, in the warm host, and shared by all servers of a run; ``random`` and the student's own
modules are per server.
"""

from __future__ import annotations

import datetime as real_datetime
import importlib
import os
import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from raftlab.host import kernel as _k
from raftlab.host import primitives, threads

# Modules that reach outside the run. The value is the reason, in the student's words.
REFUSED_MODULES: dict[str, str] = {
    **dict.fromkeys(
        (
            "socket",
            "ssl",
            "socketserver",
            "select",
            "selectors",
            "http",
            "urllib",
            "xmlrpc",
            "ftplib",
            "smtplib",
        ),
        "servers talk through peers[i].call only",
    ),
    **dict.fromkeys(("asyncio", "anyio", "trio", "curio", "gevent", "eventlet", "greenlet"), "the labs use threads"),
    **dict.fromkeys(
        ("subprocess", "multiprocessing", "signal", "pty", "_posixsubprocess"), "one server is one process"
    ),
    **dict.fromkeys(("ctypes", "cffi", "mmap", "fcntl"), "it steps outside Python"),
    "secrets": "a run must be repeatable: use random",
}

_REFUSED_OS = (
    *(
        "urandom",
        "getrandom",
        "fork",
        "forkpty",
        "system",
        "popen",
        "kill",
        "killpg",
        "abort",
        "_exit",
        "pipe",
        "pipe2",
    ),
    *(name for name in dir(os) if name.startswith(("exec", "spawn", "posix_spawn"))),
)

_COPIED = (
    "threading",
    "_threading_local",
    "queue",
    "sched",
    "logging",
    "concurrent",
    "concurrent.futures",
    "concurrent.futures._base",
    "concurrent.futures.thread",
)

# Under this name, which no import can ask for, the copies hold the library's own side of `threading`.
LIBRARY_THREADING = "threading (library)"


class RefusedCall(RuntimeError):
    """Student code asked for something that cannot be replayed. The run fails even if the code catches this."""


Refuse = Callable[[str, str], NoReturn]


def copies() -> dict[str, ModuleType]:
    """Make the copies, by module name. Leaves ``sys.modules`` as it was."""
    names = (*_COPIED, "_thread", "time", "_queue")
    kept = {name: sys.modules.pop(name, None) for name in names}
    # Fresh copies would register hooks in the real interpreter: at fork, where ours are not to be touched.
    at_fork, os.register_at_fork = os.register_at_fork, lambda **hooks: None
    fakes = {"_thread": primitives.make_thread(), "time": primitives.make_time()}
    sys.modules.update(fakes)
    sys.modules["_queue"] = None  # type: ignore[assignment]  # makes `queue` use its Python implementation
    try:
        made = {name: importlib.import_module(name) for name in _COPIED} | fakes
    finally:
        os.register_at_fork = at_fork
        for name, module in kept.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
    threading = made["threading"]
    # The student's view of `threading` is a copy: in the library itself locks are plain ones that nobody reports.
    shared = {"Event": primitives.Event, "local": made["_threading_local"].__dict__["local"]}
    made["threading"] = _copy_of(threading)
    made["threading"].__dict__.update(shared)
    if hasattr(threading, "_thread_local_info"):  # Python 3.13 makes one while it is imported
        shared["_thread_local_info"] = shared["local"]()
    threading.__dict__.update(shared, Lock=primitives.Gate, _allocate_lock=primitives.Gate)
    made[LIBRARY_THREADING] = threading
    threads.simplify(threading)
    primitives.framework_globals.add(id(threads.__dict__))
    primitives.framework_globals.update(id(module.__dict__) for module in made.values())
    futures: Any = made["concurrent.futures"]
    futures.ThreadPoolExecutor = made["concurrent.futures.thread"].ThreadPoolExecutor
    futures.thread = made["concurrent.futures.thread"]
    return made


def guarded(refuse: Refuse) -> dict[str, ModuleType]:
    """Stand-ins for modules of which only parts can be allowed: ``os``, ``datetime``, ``uuid``."""
    import uuid as real_uuid

    def refusing(name: str, why: str) -> Callable[..., NoReturn]:
        def call(*args: object, **kwargs: object) -> NoReturn:
            refuse(f"{name}()", why)

        return call

    safe_os = _copy_of(os)
    for name in _REFUSED_OS:
        if hasattr(os, name):
            why = "a run must be repeatable: use random" if "rand" in name else "one server is one process"
            safe_os.__dict__[name] = refusing(f"os.{name}", why)
    safe_uuid = _copy_of(real_uuid)
    for name in ("uuid1", "uuid4", "getnode"):
        safe_uuid.__dict__[name] = refusing(f"uuid.{name}", "a run must be repeatable: use random")
    return {"os": safe_os, "uuid": safe_uuid, "datetime": _virtual_datetime()}


def seeded_random(owner: _k.Owner, seed: int, refuse: Refuse) -> ModuleType:
    """A ``random`` module of the server's own: module-level functions drawn from ``seed``, and ``Random()`` too."""
    module = _copy_of(random)
    source = random.Random(seed)
    owner.random = source
    for name in random.__all__:
        bound = getattr(source, name, None)
        if callable(bound) and not isinstance(getattr(random, name), type):
            module.__dict__[name] = bound

    class Random(random.Random):
        """``random.Random``; without a seed it takes one from the server's own."""

        def __init__(self, x: Any = None) -> None:
            super().__init__(source.getrandbits(64) if x is None else x)

        def seed(self, a: Any = None, version: int = 2) -> None:
            super().seed(source.getrandbits(64) if a is None else a, version)

    def reseed(a: Any = None, version: int = 2) -> None:
        # `random.seed()` asks for the machine's entropy; here it asks for the run's.
        source.seed(source.getrandbits(64) if a is None else a, version)

    class SystemRandom:
        def __init__(self, *args: object) -> None:
            refuse("random.SystemRandom", "a run must be repeatable: use random.Random")

    module.__dict__.update(Random=Random, SystemRandom=SystemRandom, seed=reseed)
    return module


def _copy_of(real: ModuleType) -> ModuleType:
    module = ModuleType(real.__name__, real.__doc__)
    module.__dict__.update(real.__dict__)
    return module


def _virtual_datetime() -> ModuleType:
    """``datetime`` whose "now" is the server's clock."""
    module = _copy_of(real_datetime)
    now = primitives.make_time().__dict__["time"]

    class datetime(real_datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(now(), tz or real_datetime.UTC).replace(tzinfo=tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now()

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    class date(real_datetime.date):
        @classmethod
        def today(cls) -> Any:
            moment = real_datetime.datetime.fromtimestamp(now(), real_datetime.UTC)
            return cls(moment.year, moment.month, moment.day)

    module.__dict__.update(datetime=datetime, date=date)
    return module
