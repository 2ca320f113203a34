"""Virtual-time copies of Python's threading library, and substitutes for modules that would make a run unrepeatable.

``threading``, ``queue`` and ``concurrent.futures`` are plain Python that uses ``_thread`` and ``time``. We import fresh
copies of them while ``sys.modules`` holds our substitutes for those two modules, and then put the real modules back. So
the copies run in virtual time, unmodified. What cannot be made deterministic is refused by name.

The copies are created once, in the warm host, and shared by all servers of a run. Each server has its own ``random``
module.
"""

from __future__ import annotations

import datetime as real_datetime
import importlib
import itertools
import os
import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from raftlab.host import primitives, threads

# Modules that reach outside the run, each with the reason that the student reads.
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
    **dict.fromkeys(("ctypes", "cffi", "mmap", "fcntl"), "it reaches outside Python"),
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
    "logging.handlers",
    "logging.config",
    "concurrent",
    "concurrent.futures",
    "concurrent.futures._base",
    "concurrent.futures.thread",
)

# The name of the copy of `threading` that the other copies use. No import statement can contain it.
LIBRARY_THREADING = "threading (library)"


class RefusedCall(RuntimeError):
    """Student code used something that cannot be replayed. The run fails even if the code catches this."""


# Called with what the student's code used and the reason why that is refused.
Refuse = Callable[[str, str], NoReturn]


def make_copies(kinds: primitives.Kinds = primitives.KINDS) -> dict[str, ModuleType]:
    """Create the copies, with the locks and events of ``kinds``. Returns them by module name. ``sys.modules`` ends up
    unchanged."""
    names = (*_COPIED, "_thread", "time", "_queue")
    originals = {name: sys.modules.pop(name, None) for name in names}
    # Prevents the copies from registering at-fork hooks in the real interpreter.
    at_fork, os.register_at_fork = os.register_at_fork, lambda **hooks: None
    substitutes = {"_thread": primitives.make_thread_module(kinds), "time": primitives.make_time_module()}
    sys.modules.update(substitutes)
    sys.modules["_queue"] = None  # type: ignore[assignment]  # makes `queue` use its Python implementation
    try:
        copies = {name: importlib.import_module(name) for name in _COPIED} | substitutes
    finally:
        os.register_at_fork = at_fork
        for name, module in originals.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
    threading = copies["threading"]
    # There are two copies of `threading`: the student's copy makes tracked locks, the library's copy untracked ones.
    shared = {"Event": kinds.event, "local": copies["_threading_local"].__dict__["local"]}
    copies["threading"] = copy_module(threading)
    copies["threading"].__dict__.update(shared)
    if hasattr(threading, "_thread_local_info"):  # Python 3.13 creates this object during the import
        shared["_thread_local_info"] = shared["local"]()
    threading.__dict__.update(shared, Lock=kinds.untracked_lock, _allocate_lock=kinds.untracked_lock)
    copies[LIBRARY_THREADING] = threading
    threads.change(threading, kinds)
    primitives.framework_globals.add(id(threads.__dict__))
    primitives.framework_globals.update(id(module.__dict__) for module in copies.values())
    threads.preempt_after(copies["concurrent.futures.thread"].__dict__["ThreadPoolExecutor"], "submit")
    threads.preempt_after(copies["queue"].__dict__["Queue"], "put")
    _number_futures(copies["concurrent.futures._base"])
    futures: Any = copies["concurrent.futures"]
    futures.ThreadPoolExecutor = copies["concurrent.futures.thread"].ThreadPoolExecutor
    futures.thread = copies["concurrent.futures.thread"]
    return copies


def _number_futures(base: Any) -> None:
    """Order futures by their creation, both where ``wait`` locks them and where sets iterate over them. The library orders
    them by address, which differs from process to process."""
    future: Any = base.Future
    create, numbers = future.__init__, itertools.count()

    def init(self: Any) -> None:
        create(self)
        self._lab_number = next(numbers)

    def number(self: Any) -> int:
        value: int = getattr(self, "_lab_number", 0)  # 0: a subclass that does not call __init__
        return value

    future.__init__, future.__hash__ = init, number
    base.id = number  # a global name takes precedence over the built-in function


def shared_locks(copies: dict[str, ModuleType]) -> list[primitives.UntrackedLock]:
    """The locks at module level in ``copies``. All servers of a run share them."""
    values = [value for name in _COPIED for value in vars(copies[name]).values()]
    inner = [value._lock if isinstance(value, primitives.RLock) else value for value in values]
    return [lock for lock in inner if isinstance(lock, primitives.UntrackedLock)]


def make_guarded_modules(refuse: Refuse) -> dict[str, ModuleType]:
    """Substitutes for modules that are only partly allowed: ``os``, ``datetime``, ``uuid``."""
    import uuid as real_uuid

    def refusing(name: str, why: str) -> Callable[..., NoReturn]:
        def call(*args: object, **kwargs: object) -> NoReturn:
            refuse(f"{name}()", why)

        return call

    safe_os = copy_module(os)
    for name in _REFUSED_OS:
        if hasattr(os, name):
            why = "a run must be repeatable: use random" if "rand" in name else "one server is one process"
            safe_os.__dict__[name] = refusing(f"os.{name}", why)
    safe_uuid = copy_module(real_uuid)
    for name in ("uuid1", "uuid4", "getnode"):
        safe_uuid.__dict__[name] = refusing(f"uuid.{name}", "a run must be repeatable: use random")
    return {"os": safe_os, "uuid": safe_uuid, "datetime": _virtual_datetime()}


def make_random_module(source: random.Random, refuse: Refuse) -> ModuleType:
    """The ``random`` module of one server. Its functions, and ``Random()`` without a seed, draw from ``source``."""
    module = copy_module(random)
    for name in random.__all__:
        bound = getattr(source, name, None)
        if callable(bound) and not isinstance(getattr(random, name), type):
            module.__dict__[name] = bound

    class Random(random.Random):
        """``random.Random``, which without a seed draws one from the server's own generator."""

        def __init__(self, x: Any = None) -> None:
            super().__init__(source.getrandbits(64) if x is None else x)

        def seed(self, a: Any = None, version: int = 2) -> None:
            super().seed(source.getrandbits(64) if a is None else a, version)

    def reseed(a: Any = None, version: int = 2) -> None:
        # Without an argument, the real function uses the machine's entropy. This one uses the server's generator.
        source.seed(source.getrandbits(64) if a is None else a, version)

    class SystemRandom:
        def __init__(self, *args: object) -> None:
            refuse("random.SystemRandom", "a run must be repeatable: use random.Random")

    module.__dict__.update(Random=Random, SystemRandom=SystemRandom, seed=reseed)
    return module


def copy_module(real: ModuleType) -> ModuleType:
    """A module with the same contents, whose attributes can be replaced without touching ``real``."""
    module = ModuleType(real.__name__, real.__doc__)
    module.__dict__.update(real.__dict__)
    return module


def _virtual_datetime() -> ModuleType:
    """The substitute for ``datetime``, which reads the server's clock."""
    module = copy_module(real_datetime)
    now = primitives.make_time_module().__dict__["time"]

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
