"""A submission for tests of the rpyc world. Its ``start`` does whatever a test asks for, including misbehaviour."""

from __future__ import annotations

from pathlib import Path

# `start(["op", ...])` calls `op(...)`.
RAFT = """
import _thread, logging, os, random, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import helper
from box.inner import DEEP
from raftlab.api import ApplyMsg, log


@dataclass
class RequestVoteArgs:
    term: int
    text: str = ""
    blob: bytes = b""


@dataclass
class RequestVoteReply:
    term: int
    text: str = ""


class Raft:
    def __init__(self, peers, me, persister, apply_ch, members):
        self.peers, self.me, self.persister, self.apply_ch = peers, me, persister, apply_ch
        self.members = members
        self.bell = threading.Event()
        if me == 2:
            time.sleep(0.2)  # one server is always ready later than the others

    def start(self, command):
        op, *rest = command
        return getattr(self, op)(*rest)

    def get_state(self):
        return 7, True

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        if args.text == "wait":
            self.bell.wait()
        if args.text == "ring":
            self.bell.set()
        if args.text == "fall":
            raise KeyError("fell")
        return RequestVoteReply(args.term + 1, f"{args.text} by {self.me}, {len(args.blob)}")

    # What `start` can call.

    def ask(self, target, text, size=0):
        reply = self.peers[target].call("request_vote", RequestVoteArgs(1, text, bytes(size)))
        return None if reply is None else [reply.term, reply.text]

    def stop_here(self):
        breakpoint()

    def set_trace(self):
        import pdb
        pdb.set_trace()

    def ask_many(self, target, texts):
        with ThreadPoolExecutor(len(texts)) as pool:
            return list(pool.map(lambda text: self.ask(target, text), texts))

    def ask_wrongly(self):
        self.peers[1].call("request_vote", RequestVoteArgs(1, self.bell))

    def save(self, text):
        self.persister.save(text.encode(), b"snapshot of " + text.encode())

    def try_save(self, text):
        try:
            self.persister.save(text.encode())
        except OSError as exc:
            return str(exc)

    def append(self, text):
        try:
            self.persister.append(text.encode())
        except OSError as exc:
            return str(exc)

    def stored(self):
        return [self.persister.state(), self.persister.snapshot()]

    def apply(self):
        self.apply_ch.put(ApplyMsg(1, 1, "x"))

    def say(self):
        print("printed", "by", self.me)
        print("to stderr", file=sys.stderr)
        logging.getLogger("raft").warning("logged %d", 5)
        log("vote", "half a pair: \\udc80")

    def imported(self):
        return [helper.NAME, DEEP, __file__, helper.__file__]

    def burn(self):
        return sum(range(5_000_000))

    def roll(self):
        return random.getrandbits(60)

    def thread_raises(self):
        threading.Thread(target=self.explode, name="bomb").start()

    def bare_thread_raises(self):
        _thread.start_new_thread(self.explode, ())

    def thread_exits(self):
        threading.Thread(target=sys.exit).start()

    def explode(self):
        raise ValueError("boom")

    def exit(self, code):
        os._exit(code)

    def signal(self, number):
        os.kill(os.getpid(), number)

    def linger(self):
        try:
            print("lingering")
            time.sleep(100)
        finally:
            print("never seen")

    def fds(self):
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                    found.append(int(name))
            except OSError:
                pass
        return found

    def write(self, data):
        for fd in self.fds():
            os.write(fd, data)

    def hang_up(self):
        for fd in self.fds():
            os.close(os.dup(fd)), __import__("socket").socket(fileno=os.dup(fd)).shutdown(2)
        time.sleep(100)
"""


def submission(folder: Path) -> Path:
    """Write the submission into ``folder``: ``raft.py``, another module and a package. Returns the folder."""
    (folder / "raft.py").write_text(RAFT)
    (folder / "helper.py").write_text("NAME = __name__\n")
    (folder / "box").mkdir()
    (folder / "box" / "__init__.py").write_text("")
    (folder / "box" / "inner.py").write_text("from . import other\nDEEP = other.DEEP\n")
    (folder / "box" / "other.py").write_text("DEEP = 'deep'\n")
    return folder


def where(text: str) -> str:
    """The place of the first line that contains ``text``, as a failure shows it, such as ``raft.py:12``."""
    return next(f"raft.py:{number}" for number, line in enumerate(RAFT.splitlines(), 1) if text in line)
