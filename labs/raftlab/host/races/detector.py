"""The race detector: it finds pairs of unordered uses of the same data, at least one of which changes the data.

It keeps a vector clock for each thread. Locks, thread starts, joins, events, conditions, queues and futures order the
threads' actions (FastTrack; Flanagan and Freund, PLDI 2009). So the detector is exact for the schedule that it
observed: the two uses of a reported pair can happen in either order. In this module, a stretch is the part of a thread
between two such synchronisations. The detector examines only the first use of each field within a stretch.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict, deque
from types import FrameType
from typing import Any, NamedTuple

from raftlab.host.kernel import Incarnation, Kernel, Task
from raftlab.host.races import instrument
from raftlab.host.races.findings import Findings, Use
from raftlab.host.student_frames import line_of
from raftlab.participants import is_clerk

# A new thread reuses the number of a thread that has ended, but only when more than this many numbers are free, because the
# detector cannot find a race between two threads with the same number.
_SPARE_NUMBERS = 32
# Number of remembered objects at which the detector first forgets those that are garbage.
_SWEEP_AT = 10_000
_CONSTRUCTORS = frozenset(("Raft()", "KVServer()", "Clerk()"))  # the roles of the threads that run the constructors
_CONTAINERS = frozenset((list, dict, set, bytearray, defaultdict, OrderedDict))
_VALUES = frozenset((bool, int, float, str, bytes, type(None), frozenset))
WHOLE = object()  # stands for every item of a container
_MISSING = object()
_MESSAGE = "`a message`"  # the text of a site at which a message is sent


class Access:
    """One use of a location: the thread, its time, the place in the code, and the locks that the thread held."""

    __slots__ = ("clock", "key", "locks", "number", "role", "site", "time", "what")

    def __init__(self, thread: Thread, site: int, what: str, key: Any) -> None:
        self.number = thread.number
        self.time = thread.time
        self.clock = thread.clock
        self.role = thread.role
        self.site = site
        self.what = what  # "read" or "written"
        self.key = key
        locks = thread.locks
        if locks is None:
            locks = thread.locks = tuple([lock.site for lock in thread.task.held])
        self.locks = locks


class Location:
    """A field of an object, a container or a variable: its last write, and the reads since then by thread number."""

    __slots__ = ("reads", "write")

    def __init__(self) -> None:
        self.write: Access | None = None
        self.reads: dict[int, Access] = {}


class Object:
    """An object with its locations by name. The object is kept alive, because the detector finds it by its id."""

    __slots__ = ("locations", "queue", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.locations: dict[str, Location] = {}
        self.queue: Sync | None = None  # for a deque, which Python's documentation calls thread-safe


class Sync:
    """An object that orders threads, such as a lock: each release happens before every later acquire."""

    __slots__ = ("clock", "domain", "merged", "number", "time")

    def __init__(self) -> None:
        # Servers share some objects of the libraries. Such an object must not order the threads of different servers,
        # because a thread number means something only within one server (its domain).
        self.domain: Domain | None = None
        self.clock: list[int] | None = None
        self.number = 0
        self.time = 0
        # Whether `clock` combines the clocks of several threads, so that it may know more than thread `number` did.
        self.merged = False


class LockOrder:
    """The order in which threads take locks: for each lock, the locks that were taken while it was held."""

    def __init__(self) -> None:
        # By the ids of the outer and the inner lock. Each entry keeps both locks alive, so that no other object can get
        # their ids.
        self._taken: dict[int, dict[int, _Nested]] = {}

    def taken(self, thread: Thread, lock: Any) -> list[tuple[str, str, str]]:
        """Note that ``thread`` took ``lock`` while it held others. If that closes a cycle of locks for the first time,
        return the cycle: each step has the thread's role, and the lines at which it took the outer and the inner
        lock."""
        held = [other for other in thread.task.held if other is not lock]
        gates = frozenset(id(other) for other in held)
        for outer in held:
            inner_locks = self._taken.setdefault(id(outer), {})
            if id(lock) in inner_locks:
                continue
            step = inner_locks[id(lock)] = _Nested(
                thread, gates, line_of(outer.site), line_of(lock.site), (outer, lock)
            )
            path = self._path(id(lock), id(outer), {id(lock)})
            if path is None:
                continue
            steps = [step, *path]
            numbers = {each.thread.task.ident for each in steps}
            own = {id(each.locks[0]) for each in steps}
            # If all these threads hold a common lock, only one of them can run at a time, so there is no deadlock.
            if len(numbers) > 1 and not frozenset.intersection(*(each.gates for each in steps)) - own:
                return [(each.thread.role, each.outer, each.inner) for each in steps]
        return []

    def _path(self, start: int, goal: int, seen: set[int]) -> list[_Nested] | None:
        for following, step in self._taken.get(start, {}).items():
            if following == goal:
                return [step]
            if following not in seen:
                seen.add(following)
                rest = self._path(following, goal, seen)
                if rest is not None:
                    return [step, *rest]
        return None


class _Nested(NamedTuple):
    """A lock that was taken while another was held.

    Attributes:
        thread: The thread that took both locks.
        gates: The ids of all locks that the thread held.
        outer: The line at which the outer lock was taken.
        inner: The line at which the inner lock was taken.
        locks: The outer and the inner lock.
    """

    thread: Thread
    gates: frozenset[int]
    outer: str
    inner: str
    locks: tuple[Any, Any]


class Domain:
    """The threads and objects of one incarnation of a server, which shares nothing with other servers."""

    def __init__(self) -> None:
        self.free: deque[int] = deque()
        self.times: list[int] = []  # by thread number: its latest time; `clocks` has the clock at that time
        self.clocks: list[list[int]] = []
        # Orders the end of the constructor before every call by the framework. On a clerk, it also orders the end of each
        # operation before the next, because a test begins the next operation only when it has the result.
        self.before_calls: Sync = Sync()
        self.objects: dict[int, Object] = {}
        self.order = LockOrder()
        self.sweep_at = _SWEEP_AT


class Thread:
    """The detector's knowledge of one thread: its vector clock, and the data that it used in this stretch.

    ``clock`` is never changed in place, because accesses and locks refer to it. The thread's own time is
    in ``time``, not in ``clock``.
    """

    __slots__ = ("clock", "domain", "keys", "locks", "number", "read", "role", "task", "time", "written")

    def __init__(self, task: Task, domain: Domain, role: str) -> None:
        self.task = task
        self.domain = domain
        self.role = role
        if len(domain.free) > _SPARE_NUMBERS:
            self.number = domain.free.popleft()
        else:
            self.number = len(domain.times)
            domain.times.append(0)
            domain.clocks.append([])
        self.time = domain.times[self.number] + 1
        # Threads that know this thread's actions must also know those of the earlier threads that had the same number.
        self.clock = domain.clocks[self.number]
        self.read: set[Any] = set()
        self.written: set[Any] = set()
        self.locks: tuple[Any, ...] | None = None  # where it took the locks that it holds in this stretch
        self.keys: dict[int, Any] = {}  # by container id: the item that was read in this stretch

    def knows(self, number: int, time: int) -> bool:
        """Whether the actions of thread ``number`` at ``time`` happened before this moment of this thread."""
        clock = self.clock
        return number == self.number or (number < len(clock) and clock[number] >= time)

    def next_stretch(self) -> None:
        self.read.clear()
        self.written.clear()
        self.keys.clear()
        self.locks = None

    def acquire(self, sync: Sync) -> None:
        """Record that all releases of ``sync`` so far happen before the next actions of this thread."""
        other = sync.clock
        if other is None or sync.domain is not self.domain or (self.knows(sync.number, sync.time) and not sync.merged):
            return
        self._join(other, sync.number, sync.time)
        # A thread that knows this thread's actions at some time also knows everything that this thread knew at that
        # time. So what this thread has just learned may only count from a new time on.
        self.time += 1

    def _join(self, other: list[int], number: int, time: int) -> None:
        own = self.clock
        if len(own) < len(other):
            own, other = other, own
        joined = [max(a, b) for a, b in zip(own, other, strict=False)] + own[len(other) :]
        if number >= len(joined):
            joined += [0] * (number + 1 - len(joined))
        joined[number] = max(joined[number], time)
        self.clock = joined

    def see(self, access: Access) -> None:
        """Treat ``access`` as if it had happened before this moment. Its race has been reported, so the races that follow
        from it need not be."""
        if not self.knows(access.number, access.time):
            self._join(access.clock, access.number, access.time)
            self.time += 1

    def release(self, sync: Sync) -> None:
        """Record that the actions of this thread so far happen before every later acquire of ``sync``. This thread must
        know all earlier releases of ``sync`` on its server; see :meth:`release_too`."""
        sync.clock, sync.number, sync.time, sync.merged = self.clock, self.number, self.time, False
        sync.domain = self.domain
        self.time += 1
        self.next_stretch()

    def release_too(self, sync: Sync) -> None:
        """Like :meth:`release`, but this thread need not know the earlier releases: any thread may set an event or fill a
        queue."""
        if sync.clock is not None and sync.domain is self.domain and not self.knows(sync.number, sync.time):
            clock, number, time = sync.clock, sync.number, sync.time
            kept = self.clock
            self._join(clock, number, time)
            merged, self.clock = self.clock, kept
            sync.clock, sync.number, sync.time, sync.merged = merged, self.number, self.time, True
            self.time += 1
            self.next_stretch()
        else:
            self.release(sync)


class Detector:
    """Observes one run.

    Args:
        instrumenter: The instrumenter of the submission. It has the places of all uses.
        kernel: The run's kernel.
        findings: Receives what the detector finds.
        local: The class of thread-local data, which no other thread sees.
    """

    def __init__(
        self, instrumenter: instrument.Instrumenter, kernel: Kernel, findings: Findings, local: type[Any]
    ) -> None:
        self._local = local
        self._sites = instrumenter.sites
        self._changers = instrumenter.attributes
        self._constant: set[tuple[type[Any], str]] = set()  # (class, attribute): no method of the class changes it
        self._variable: set[tuple[type[Any], str]] = set()
        self._class_attributes = instrumenter.class_attributes & set(instrumenter.attributes)
        self._kernel = kernel
        self._findings = findings
        self._instrumenter = instrumenter
        self._service_sites: dict[tuple[str, str], int] = {}
        self._domains: dict[Incarnation, Domain] = {}

    # --- threads ---

    def started(self, task: Task, parent: Thread | None, role: str) -> None:
        """Note that ``task`` was created by ``parent``, or by the framework (``None``)."""
        if task.role == "status()":
            return  # the result of status() is only displayed
        domain = self._domains.get(task.incarnation)
        if domain is None:
            domain = self._domains[task.incarnation] = Domain()
        thread = task.observed = Thread(task, domain, role)
        if parent is not None:
            sync = Sync()
            parent.release(sync)
            thread.acquire(sync)
        else:
            thread.acquire(domain.before_calls)

    def ended(self, task: Task) -> None:
        thread: Thread | None = task.observed
        if thread is None:
            return
        domain = thread.domain
        if task.role in _CONSTRUCTORS or (is_clerk(task.incarnation.server) and task.role != "a thread"):
            thread.release_too(domain.before_calls)
        domain.times[thread.number], domain.clocks[thread.number] = thread.time, thread.clock
        domain.free.append(thread.number)
        for lock in task.held:
            if lock.is_mutex and not lock.is_signal:
                place = line_of(lock.site)
                lock_name = self._findings.lock(place)
                text = f"{thread.role} has ended and still holds {lock_name}; whoever wants it next waits for ever"
                self._findings.add(task.incarnation.server, "lock-kept", place, text)

    def crashed(self, incarnation: Incarnation) -> None:
        self._domains.pop(incarnation, None)

    # --- locks ---

    def nested(self, thread: Thread, lock: Any) -> None:
        """Record that ``thread`` took ``lock`` while it held others."""
        if thread.task.role == "Raft()":
            return  # no other thread needs these locks before Raft() has returned
        cycle = thread.domain.order.taken(thread, lock)
        if cycle:
            name = self._findings.lock
            parts = [f"{role} takes {name(inner)} while it holds {name(outer)}" for role, outer, inner in cycle]
            text = f"locks are taken in different order: {', and '.join(parts)}; each can wait for the other for ever"
            key = " and ".join(sorted(f"{outer} {inner}" for _, outer, inner in cycle))
            self._findings.add(thread.task.incarnation.server, "lock-order", key, text)

    # --- uses ---

    def use_service(self, what: str, changed: bool) -> None:
        """Record that student code uses ``persister`` or ``apply_ch``. Each of the two is one location."""
        thread: Thread | None = self._kernel.current.observed
        if thread is not None:
            self.use(thread, thread.domain, what, WHOLE, self._service_site(f"`{what}`"), changed)

    def use_message(self, args: Any) -> None:
        """Record that student code sends ``args``. Sending reads the contents of its lists."""
        thread: Thread | None = self._kernel.current.observed
        if thread is None:
            return
        for value in _fields(args).values():
            if type(value) in _CONTAINERS and thread.keys.get(id(value)) is not WHOLE:
                self._use_container(thread, value, WHOLE, self._service_site(_MESSAGE), False)

    def _service_site(self, what: str) -> int:
        """The number of the site at the student's line that is running now."""
        frame: FrameType | None = sys._getframe(1)
        files = self._instrumenter.files
        while frame is not None and frame.f_code.co_filename not in files:
            frame = frame.f_back
        if frame is None:
            file, line, function = "", 0, ""
        else:
            file, line, function = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname
        key = f"{file}:{line}", what
        number = self._service_sites.get(key)
        if number is None:
            self._sites.append(instrument.Site(file, line, function, what))
            number = self._service_sites[key] = len(self._sites) - 1
        return number

    def hooks(self) -> dict[str, Any]:
        """The functions that instrumented code calls, by the names that the code uses for them."""
        kernel = self._kernel
        use_field, use_container = self._use_field, self._use_container

        def read(value: Any, name: str, site: int) -> Any:
            thread: Thread | None = kernel.current.observed
            if thread is not None and (id(value), name) not in thread.read:
                use_field(thread, value, name, site, False)
            return value

        def write(value: Any, name: str, site: int) -> Any:
            thread: Thread | None = kernel.current.observed
            if thread is not None and (id(value), name) not in thread.written:
                use_field(thread, value, name, site, True)
            return value

        def update(value: Any, name: str, site: int) -> Any:
            return write(read(value, name, site), name, site)

        def use(value: Any, site: int) -> Any:
            if type(value) in _CONTAINERS:
                thread: Thread | None = kernel.current.observed
                if thread is not None and thread.keys.get(id(value)) is not WHOLE:
                    use_container(thread, value, WHOLE, site, False)
            elif type(value) is deque:
                taken(value, site)
            return value

        def item(value: Any, key: Any, site: int) -> Any:
            if type(value) in _CONTAINERS:
                thread: Thread | None = kernel.current.observed
                if thread is not None:
                    if type(key) is not int and type(key) is not str:
                        key = WHOLE
                    known = thread.keys.get(id(value), _MISSING)
                    if known is not WHOLE and (type(known) is not type(key) or known != key):
                        use_container(thread, value, key, site, False)
            return value

        def change(value: Any, site: int) -> Any:
            if type(value) in _CONTAINERS:
                thread: Thread | None = kernel.current.observed
                if thread is not None and id(value) not in thread.written:
                    use_container(thread, value, WHOLE, site, True)
            return value

        def set_item(value: Any, key: Any, site: int) -> Any:
            if type(value) in _CONTAINERS:
                thread: Thread | None = kernel.current.observed
                if thread is not None and id(value) not in thread.written:
                    known = (type(key) is int or type(key) is str) and _has(value, key)
                    use_container(thread, value, key if known else WHOLE, site, True)
            return value

        def queued(value: Any, site: int) -> Any:
            if type(value) is not deque:
                return change(value, site)
            thread: Thread | None = kernel.current.observed
            if thread is not None:
                thread.release_too(self._queue(thread, value))
            return value

        def taken(value: Any, site: int) -> Any:
            if type(value) is not deque:
                return change(value, site)
            thread: Thread | None = kernel.current.observed
            if thread is not None:
                thread.acquire(self._queue(thread, value))
            return value

        def variable(owner: Any, name: str, site: int, value: Any) -> Any:
            read(owner, name, site)
            return value

        return {
            instrument.READ: read,
            instrument.WRITE: write,
            instrument.UPDATE: update,
            instrument.USE: use,
            instrument.ITEM: item,
            instrument.CHANGE: change,
            instrument.SET_ITEM: set_item,
            instrument.QUEUED: queued,
            instrument.TAKEN: taken,
            instrument.VARIABLE: variable,
            instrument.WROTE: write,
            instrument.SCOPE: object,
        }

    def _object(self, thread: Thread, value: Any) -> Object:
        objects = thread.domain.objects
        known = objects.get(id(value))
        if known is None:
            if len(objects) >= thread.domain.sweep_at:
                self._sweep(thread.domain)
            known = objects[id(value)] = Object(value)
        return known

    def _queue(self, thread: Thread, value: Any) -> Sync:
        known = self._object(thread, value)
        if known.queue is None:
            known.queue = Sync()
        return known.queue

    @staticmethod
    def _sweep(domain: Domain) -> None:
        """Forget the objects to which nothing but the detector still refers."""
        kept = {}
        for key, known in domain.objects.items():
            if sys.getrefcount(known.value) > 2:
                kept[key] = known
        domain.objects = kept
        domain.sweep_at = max(_SWEEP_AT, 2 * len(kept))

    def _use_field(self, thread: Thread, value: Any, name: str, site: int, written: bool) -> None:
        kind = (type(value), name)
        if kind not in self._variable and self._never_changes(kind):
            return
        key = (id(value), name)
        thread.read.add(key)
        if isinstance(value, self._local):
            thread.written.add(key)
            return
        if written:
            thread.written.add(key)
        if name in self._class_attributes and not isinstance(value, type):
            value = self._class_with(value, name)
        self.use(thread, value, name, WHOLE, site, written)

    def _never_changes(self, kind: tuple[type[Any], str]) -> bool:
        """Whether no method of this class changes this attribute (``kind``)."""
        if kind in self._constant:
            return True
        value_type, name = kind
        changers = self._changers.get(name)
        if changers is None or any(each.__name__ in changers for each in value_type.__mro__):
            self._variable.add(kind)
            return False
        self._constant.add(kind)
        return True

    @staticmethod
    def _class_with(value: Any, name: str) -> Any:
        """The object whose field this is: ``value``, or the class if ``value`` has no such field of its own."""
        if name in _fields(value):
            return value
        return next((each for each in type(value).__mro__ if name in each.__dict__), value)

    def _use_container(self, thread: Thread, value: Any, key: Any, site: int, written: bool) -> None:
        if written and key is WHOLE:
            thread.written.add(id(value))
        if not written:
            # Two reads of items in one stretch count as a read of the whole container.
            key = WHOLE if id(value) in thread.keys else key
            thread.keys[id(value)] = key
        self.use(thread, value, "", key, site, written)

    def use(self, thread: Thread, value: Any, name: str, key: Any, site: int, written: bool) -> None:
        """Record a use of the field ``name`` of ``value``, or of the container ``value`` (``name`` is empty). Report it
        if it races with an earlier use."""
        known = self._object(thread, value)
        location = known.locations.get(name)
        if location is None:
            location = known.locations[name] = Location()
        access = Access(thread, site, "written" if written else "read", key)
        last = location.write
        if last is not None and not thread.knows(last.number, last.time) and _same_item(last.key, key):
            self._report(thread, value, name, last, access)
        if not written:
            location.reads[thread.number] = access
            return
        for other in location.reads.values():
            if not thread.knows(other.number, other.time) and _same_item(other.key, key):
                self._report(thread, value, name, other, access)
        location.reads.clear()
        location.write = access

    def _report(self, thread: Thread, value: Any, name: str, earlier: Access, later: Access) -> None:
        first, second = self._describe(thread, earlier), self._describe(thread, later)
        what = first.site.text if name or second.site.text == _MESSAGE else second.site.text
        field = bool(name) and value is not thread.domain
        server = thread.task.incarnation.server
        certain = self._findings.race(server, what if name else f"the contents of {what}", first, second, field)
        publishes = later.what == "read" and type(_fields(value).get(name)) not in _VALUES
        if certain or publishes:
            # Do not also report the consequences of this race, such as the uses of an object that it published.
            thread.see(earlier)

    def _describe(self, thread: Thread, access: Access) -> Use:
        locks = tuple(line_of(taken) for taken in access.locks)
        stretch = (thread.domain, access.number, access.time)
        return Use(access.what, self._sites[access.site], access.role, locks, stretch)


def _fields(value: Any) -> dict[str, Any]:
    """The fields of an object, without running any code of the student's."""
    try:
        fields: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return fields


def _same_item(first: Any, second: Any) -> bool:
    return first is WHOLE or second is WHOLE or bool(first == second)


def _has(container: Any, key: Any) -> bool:
    """Whether setting this item leaves the container's shape as it is. Setting an item never makes a list longer."""
    return type(container) is list or type(container) is bytearray or key in container
