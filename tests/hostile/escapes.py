"""Attempts to get out of the sandbox, one submission for each promise of ``handouts/confinement.md``.

When a server is created, each submission makes all attempts against its promise, and then raises an exception that names
the attempts that worked. A promise holds if no attempt worked. At the level ``rlimits``, the attempts that work must be
exactly those that the page admits.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

# Tools for all these submissions. `own_import` is Python's own `__import__`, which can import the modules that raftlab
# refuses to student code.
TOOLS = """
import builtins, errno, sys, posix
own_import = sys.modules["builtins"].__import__
ctypes, fcntl, mmap, resource, signal, socket = map(own_import, ("ctypes", "fcntl", "mmap", "resource", "signal", "socket"))
libc = ctypes.CDLL(None, use_errno=True)
def c(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
def no_permission(action):  # an attempt that fails only because there is nothing to act on is not refused
    try:
        action()
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.ENOSYS):
            raise
def opened(path, flags=posix.O_RDONLY):
    return posix.open(path, flags, 0o600)
def read(path):
    return posix.read(opened(path), 100)
def need(condition):
    if not condition:
        raise OSError("not there")
host = posix.getppid() or 1
def judge():  # the parent of the host
    return int(read(f"/proc/{host}/stat").split()[3])
def pipe():
    return posix.pipe()[0]
own = opened(sys.executable)
def walk(top, name):
    import os
    for folder, _, files in os.walk(top):
        if name in files and "warm_up_submission" not in folder:
            yield f"{folder}/{name}"
attempts = {}
"""


@dataclass(frozen=True)
class Promise:
    """A promise of the page, which is a row of its table.

    Attributes:
        name: the name of the submission that tests the promise.
        attempts: expressions that raise an exception if they are refused. The keys describe the attempts in words.
        admitted: the attempts that work at the level ``rlimits``.
    """

    name: str
    attempts: dict[str, str]
    admitted: tuple[str, ...] = ()

    def init(self) -> str:
        """The code for the submission's ``__init__``."""
        lines = [f"attempts[{name!r}] = lambda: {code}" for name, code in self.attempts.items()]
        end = """
        worked = []
        for name, attempt in attempts.items():
            try:
                attempt()
                worked.append(name)
            except Exception as exc:
                print(name, type(exc).__name__, exc)
        raise OSError(f"tried {len(attempts)}, worked: {', '.join(worked) or 'nothing'}")
        """
        return "\n".join([*lines, textwrap.dedent(end)])

    def says(self, level: str) -> str:
        """The sentence that the report must contain about the submission."""
        worked = [name for name in self.attempts if level == "rlimits" and name in self.admitted]
        return f"tried {len(self.attempts)}, worked: {', '.join(worked) or 'nothing'}"


# The numbers of system calls are those of x86-64. On other machines they mean other calls, which are refused as well.
PROMISES = [
    Promise(
        "starts-processes",
        {
            "fork": "posix.fork()",
            "the C library's fork": "c('fork')",
            "vfork": "c('vfork')",
            "posix_spawn": "posix.posix_spawn('/bin/true', ['true'], {})",
            "exec": "posix.execv(sys.executable, [sys.executable, '-c', '0'])",
            "exec of a file descriptor": "c('fexecve', own, (ctypes.c_char_p * 1)(None), (ctypes.c_char_p * 1)(None))",
            "a shell": "need(libc.system(b'true') == 0)",
        },
    ),
    Promise(
        "acts-on-processes",
        {
            "a signal": "posix.kill(host, 0)",
            "a signal to a thread": "c('tgkill', host + 1, host + 1, 0)",
            "a signal with a value": "c('sigqueue', host, 0, None)",
            "a signal to all": "posix.kill(-1, 0)",
            "a signal through a pipe": "fcntl.fcntl(pipe(), fcntl.F_SETOWN, host)",
            "a chosen signal": "fcntl.fcntl(pipe(), 10, 9)",
            "signals from a pipe": "fcntl.fcntl(pipe(), fcntl.F_SETFL, 0o20000)",
            "the owner of a pipe by ioctl": "no_permission(lambda: fcntl.ioctl(pipe(), 0x8901, bytes(4)))",
            "a process as a file": "c('pidfd_open', host, 0)",
            "tracing": "c('ptrace', 16, host, 0, 0)",
            "memory of the host": "opened(f'/proc/{host}/mem')",
            "memory of the judge": "opened(f'/proc/{judge()}/mem')",
            "environment of the judge": "read(f'/proc/{judge()}/environ')",
            "files of the judge": "posix.readlink(f'/proc/{judge()}/fd/0')",
            "memory by a system call": "c('process_vm_readv', host, None, 0, None, 0, 0)",
            "stopping itself": "need(libc['raise'](19) == 0)",
        },
    ),
    Promise(
        "changes-scheduling",
        {
            "priority": "posix.setpriority(posix.PRIO_PROCESS, host, 19)",
            "its own priority": "c('nice', 1)",
            "processors": "posix.sched_setaffinity(host, {0})",
            "policy": "posix.sched_setscheduler(host, posix.SCHED_IDLE, posix.sched_param(0))",
            "disk priority": "no_permission(lambda: c('syscall', 251, 1, host, 0x6000))",
            "limits": "resource.prlimit(host + 1, resource.RLIMIT_CORE)",
        },
    ),
    Promise(
        "outlives-its-host",
        {
            "no signal when the host ends": "c('prctl', 1, 0, 0, 0, 0)",
            "a session": "posix.setsid()",
            "a process group": "posix.setpgid(0, 0)",
            "a reaper": "c('prctl', 36, 1, 0, 0, 0)",
            "a daemon": "c('daemon', 0, 0)",
        },
    ),
    Promise(
        "uses-a-terminal",
        {
            "typing": "no_permission(lambda: fcntl.ioctl(0, 0x5412, b'x'))",
            "typing on a console": "no_permission(lambda: fcntl.ioctl(0, 0x541C, b'x'))",
            "the terminal": "opened('/dev/tty')",
            "a new terminal": "posix.openpty()",
            "taking a terminal": "no_permission(lambda: fcntl.ioctl(0, 0x540E, 0))",
        },
    ),
    Promise(
        "uses-the-network",
        {
            "a socket": "socket.socket()",
            "a local socket": "socket.socket(socket.AF_UNIX)",
            "the kernel's own socket": "socket.socket(16, socket.SOCK_RAW)",
            "virtual machines": "socket.socket(40, socket.SOCK_STREAM)",
            "a listener": "no_permission(lambda: c('listen', 0, 1))",
            "a connection": "no_permission(lambda: c('connect', 0, bytes(16), 16))",
            "an address": "no_permission(lambda: c('bind', 0, bytes(16), 16))",
        },
    ),
    Promise(
        "shares-with-another-server",
        {
            "a lock": "fcntl.flock(own, fcntl.LOCK_SH)",
            "a lock of a part": "fcntl.lockf(own, fcntl.LOCK_SH, 1)",
            "a look for locks": "fcntl.fcntl(own, fcntl.F_GETLK, bytes(64))",
            "a lock of an open file": "fcntl.fcntl(own, 37, bytes(64))",
            "a lease": "fcntl.fcntl(own, 1024, fcntl.F_RDLCK)",
            "notes about a folder": "fcntl.fcntl(opened('/usr/lib'), 1026, 1)",
            "notes about a file": "c('inotify_init1', 0)",
            "notes about everything": "c('fanotify_init', 0, 0)",
            "a hint at a file": "no_permission(lambda: fcntl.fcntl(own, 1036, (2).to_bytes(8, sys.byteorder)))",
            "a mapped file": "mmap.mmap(own, 1, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)",
            "shared memory": "mmap.mmap(-1, 4096)",
            "an anonymous file": "posix.memfd_create('x')",
            "System V memory": "c('shmget', 1, 10, 0o1777)",
            "foreign System V memory": "no_permission(lambda: c('shmat', 0, 0, 0))",
            "System V semaphores": "c('semget', 1, 1, 0o1777)",
            "System V messages": "c('msgget', 1, 0o1777)",
            "a message queue": "c('syscall', 240, b'x', 0o102, 0o600, None)",
            "a key": "no_permission(lambda: c('syscall', 248, b'user', b'x', b'x', 1, -3))",
            "its name": "c('prctl', 15, b'x', 0, 0, 0)",
            "a file in memory": "opened('/dev/shm/x', posix.O_CREAT | posix.O_WRONLY)",
            "a named pipe": "posix.mkfifo('/tmp/x')",
            "the number of processes": "c('sysinfo', bytes(200))",
            "waking a server": "c('syscall', 202, ctypes.create_string_buffer(8), 1, 1)",
            "space on the disk": "posix.statvfs('/usr/lib')",
            "pages in the cache": "c('mincore', 0, 0, None)",
            "what it prints": "posix.pread(2, 1, 0)",
            "its input": "posix.write(0, b'x')",
            "the processor time of others": "sys.modules['time'].clock_gettime(~(host + (host == 1)) << 3 | 2)",
            "a list of processes": "need(any(name.isdigit() for name in posix.listdir('/proc')))",
        },
        admitted=("the processor time of others", "a list of processes"),
    ),
    Promise(
        "reads-files",
        {
            "a file beside the submissions": "read('@BESIDE@')",
            "our solutions": "read('@SOLUTION@')",
            "an installed package": "need([p for p in sys.path if sys.modules['os'].path.exists(p + '/pytest')])",
            "accounts": "read('/etc/passwd')",
            "the machine": "posix.listdir('/sys/class')",
            "where it lies": "read('/proc/self/mountinfo')",
            "messages of the kernel": "read('/proc/version')",
        },
        admitted=(
            "a file beside the submissions",
            "our solutions",
            "an installed package",
            "accounts",
            "the machine",
            "where it lies",
            "messages of the kernel",
        ),
    ),
    Promise(
        "writes-files",
        {
            "its own file": "opened(__file__ if __file__[0] == '/' else sys.executable, posix.O_WRONLY)",
            "the lab": "opened(sys.modules['raftlab'].__file__, posix.O_WRONLY)",
            "Python": "opened(sys.modules['os'].__file__, posix.O_WRONLY)",
            "the system": "opened('/etc/x', posix.O_CREAT | posix.O_WRONLY)",
            "a folder": "posix.mkdir('/x')",
            "a link": "posix.link(sys.executable, '/tmp/x')",
            "permissions": "posix.chmod(sys.executable, 0o777)",
            "permissions of an open file": "posix.fchmod(own, 0o777)",
            "times": "posix.utime(sys.executable, (0, 0))",
            "attributes": "posix.setxattr(sys.executable, 'user.x', b'1')",
            "fewer attributes": "no_permission(lambda: posix.removexattr(sys.executable, 'user.x'))",
            "cutting": "posix.truncate(sys.executable, 0)",
            "the kernel": "opened('/proc/sys/kernel/core_pattern', posix.O_WRONLY)",
            "its own process": "opened('/proc/self/oom_score_adj', posix.O_WRONLY)",
            "removing": "posix.unlink(sys.executable)",
        },
    ),
    Promise(
        "exceeds-its-limits",
        {
            "memory": "bytearray(9 << 30)",
            "memory that is locked": "c('mlockall', 3)",
            "shared memory": "mmap.mmap(-1, 1 << 30)",
            "files": "[posix.open('/dev/null', 0) for _ in range(600)]",
            "pipes": "[posix.pipe() for _ in range(300)]",
            "higher limits": "c('setrlimit', 7, (ctypes.c_ulong * 2)(1 << 20, 1 << 20))",
            "a higher limit of processor time": "c('setrlimit', 0, (ctypes.c_ulong * 2)(1 << 20, 1 << 20))",
            "a core dump": "resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))",
        },
    ),
    Promise(
        "asks-the-kernel",
        {
            "namespaces": "c('unshare', 0x10000000)",
            "entering a namespace": "no_permission(lambda: c('setns', 0, 0))",
            "mounting": "c('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None)",
            "another root": "posix.chroot('/tmp')",
            "being root": "no_permission(lambda: posix.setuid(0))",
            "another filter": "no_permission(lambda: c('prctl', 22, 2, None, 0, 0))",
            "asynchronous calls": "no_permission(lambda: c('syscall', 425, 1, None))",
            "page faults": "no_permission(lambda: c('syscall', 323, 0))",
            "programs in the kernel": "no_permission(lambda: c('syscall', 321, 0, None, 0))",
            "counters": "no_permission(lambda: c('syscall', 298, None, 0, -1, -1, 0))",
            "another personality": "c('personality', 0x0040000)",
            "calls of another kind": "no_permission(lambda: c('syscall', 0x40000000 | 39))",
            "calls that do not exist": "no_permission(lambda: c('syscall', 9999))",
            "a reboot": "no_permission(lambda: c('reboot', 0))",
            "the clock": "no_permission(lambda: sys.modules['time'].clock_settime(0, 0.0))",
            "the name of the machine": "no_permission(lambda: c('sethostname', b'x', 1))",
        },
    ),
]

# These attempts are also made alone, each by a submission of its own, so that no earlier attempt can influence them.
_ALONE = {
    "starts-processes": ("the C library's fork", "posix_spawn", "exec of a file descriptor"),
    "acts-on-processes": ("signals from a pipe", "a process as a file", "a signal with a value", "stopping itself"),
    "changes-scheduling": ("processors", "limits"),
    "outlives-its-host": ("a process group", "a daemon"),
    "uses-a-terminal": ("a new terminal", "typing on a console"),
    "uses-the-network": ("the kernel's own socket", "virtual machines"),
    "shares-with-another-server": (
        "a lock of an open file",
        "notes about a folder",
        "a hint at a file",
        "a mapped file",
        "an anonymous file",
        "a message queue",
        "a key",
        "a named pipe",
        "the number of processes",
        "pages in the cache",
        "waking a server",
        "space on the disk",
        "its input",
    ),
    "writes-files": ("a link", "permissions of an open file", "the kernel", "its own process"),
    "exceeds-its-limits": ("pipes", "shared memory", "a core dump"),
    "asks-the-kernel": ("asynchronous calls", "page faults", "calls of another kind", "another filter"),
}
ALONE = [
    Promise(f"{promise.name}-{name.replace(' ', '-')}", {name: promise.attempts[name]})
    for promise in PROMISES
    for name in _ALONE.get(promise.name, ())
]
