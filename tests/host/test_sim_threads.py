"""Threads in the simulator: Python's own threading library behaves as usual, in virtual time."""

from __future__ import annotations

import pytest

from raftlab.host.stdlib import make_copies
from tests.conftest import Write, lines_of, sim_cluster

# By name: the body of a student's __init__, and the lines that this body must log.
LIBRARY = {
    "thread-and-join": (
        """
        def work(n):
            time.sleep(n)
            log("t", f"{n} at {time.monotonic() - 1000:.1f}")
        def main():
            threads = [threading.Thread(target=work, args=(n,)) for n in (0.3, 0.1, 0.2)]
            for each in threads: each.start()
            for each in threads: each.join()
            log("t", f"joined at {time.monotonic() - 1000:.1f}, alive {any(each.is_alive() for each in threads)}")
            late = threading.Thread(target=work, args=(1,), daemon=True)
            late.start()
            late.join(timeout=0.5)
            log("t", f"alive {late.is_alive()}")
        threading.Thread(target=main).start()
        """,
        ["0.1 at 0.1", "0.2 at 0.2", "0.3 at 0.3", "joined at 0.3, alive False", "alive True", "1 at 1.3"],
    ),
    "condition": (
        """
        cond, box = threading.Condition(), []
        def take():
            with cond:
                while not box: cond.wait()
                log("t", f"took {box.pop()}")
                log("t", f"timed out: {not cond.wait(0.2)} {cond.wait_for(lambda: False, timeout=0.1)}")
        def give():
            time.sleep(0.5)
            with cond:
                box.append("it"); cond.notify()
        threading.Thread(target=take).start(); threading.Thread(target=give).start()
        """,
        ["took it", "timed out: True False"],
    ),
    "condition-with-any-lock": (
        """
        class Own:
            def __init__(self): self.inner = threading.Lock()
            def acquire(self, *args): return self.inner.acquire(*args)
            def release(self): self.inner.release()
            def __enter__(self): self.acquire()
            def __exit__(self, *exc): self.release()
        def waiter(cond, n, seen):
            with cond:
                seen.append((n, cond.wait(n)))
        def main():
            for lock in (threading.Lock(), threading.RLock(), Own()):
                cond, seen = threading.Condition(lock), []
                for call in (cond.notify, cond.notify_all, cond.wait):
                    try: call()
                    except RuntimeError as exc: log("t", str(exc))
                for n in (5, 4, 1, 3):
                    threading.Thread(target=waiter, args=(cond, n, seen)).start()
                    time.sleep(0.01)
                time.sleep(2)
                with cond: cond.notify(2)
                time.sleep(0.1)
                with cond:
                    cond.notify_all()
                    cond.wait(0.1)
                    log("t", f"{sorted(seen[:1])} {sorted(seen[1:])} {cond.wait(0)}")
                time.sleep(0.1)
                with cond:
                    log("t", f"{seen[3:]} {len(cond._waiters)}")
        threading.Thread(target=main).start()
        """,
        [
            line
            for _ in range(3)
            for line in (
                "cannot notify on un-acquired lock",
                "cannot notify on un-acquired lock",
                "cannot wait on un-acquired lock",
                "[(1, False)] [(3, True), (4, True), (5, True)] False",
                "[(3, True)] 0",
            )
        ],
    ),
    "locks": (
        """
        lock, again = threading.Lock(), threading.RLock()
        def hold():
            with lock: time.sleep(1)
        def main():
            time.sleep(0.1)
            log("t", f"{lock.locked()} {lock.acquire(blocking=False)} {lock.acquire(timeout=0.2)} {lock.acquire()}")
            log("t", f"{time.monotonic() - 1000:.1f}")
            lock.release()
            try: lock.release()
            except RuntimeError as exc: log("t", str(exc))
            with again:
                with again: log("t", "twice")
            try: again.release()
            except RuntimeError as exc: log("t", str(exc))
        threading.Thread(target=hold).start(); threading.Thread(target=main).start()
        """,
        ["True False False True", "1.0", "release unlocked lock", "twice", "cannot release un-acquired lock"],
    ),
    "queue": (
        """
        q = queue.Queue(maxsize=2)
        def put():
            for n in range(4): q.put(n)
            log("t", "put all")
        def get():
            time.sleep(0.1)
            log("t", str([q.get() for _ in range(4)]))
            try: q.get(timeout=0.3)
            except queue.Empty: log("t", f"empty at {time.monotonic() - 1000:.1f}")
            simple = queue.SimpleQueue(); simple.put(1); log("t", str(simple.get()))
            log("t", str(queue.PriorityQueue))
        threading.Thread(target=put).start(); threading.Thread(target=get).start()
        """,
        ["put all", "[0, 1, 2, 3]", "empty at 0.4", "1", "<class 'queue.PriorityQueue'>"],
    ),
    "executor": (
        """
        def slow(n): time.sleep(n); return n * 2
        def main():
            with ThreadPoolExecutor(max_workers=2) as pool:
                futures = [pool.submit(slow, n) for n in (0.3, 0.2, 0.1)]
                log("t", str([f.result() for f in futures]))
                log("t", f"{time.monotonic() - 1000:.1f}")
                try: pool.submit(slow, 5).result(timeout=0.1)
                except TimeoutError: log("t", "timeout")
                bad = pool.submit(lambda: 1 / 0)
                log("t", type(bad.exception()).__name__)
        threading.Thread(target=main).start()
        """,
        ["[0.6, 0.4, 0.2]", "0.3", "timeout", "ZeroDivisionError"],
    ),
    "timer-event-semaphore-barrier-local": (
        """
        event, local, barrier = threading.Event(), threading.local(), threading.Barrier(2)
        def fire(): log("t", f"fired at {time.monotonic() - 1000:.1f}"); event.set()
        def other():
            local.x = 1
            barrier.wait()
        def main():
            threading.Timer(0.5, fire).start()
            gone = threading.Timer(0.1, fire); gone.start(); gone.cancel()
            log("t", f"{event.wait(0.2)} {event.wait()}")
            threading.Thread(target=other).start(); barrier.wait()
            log("t", str(hasattr(local, "x")))
            sem = threading.Semaphore(1)
            log("t", f"{sem.acquire()} {sem.acquire(timeout=0.1)}")
            log("t", f"{threading.current_thread().name} {threading.current_thread() in threading.enumerate()}")
        threading.Thread(target=main, name="mine").start()
        """,
        ["fired at 0.5", "False True", "False", "True False", "mine True"],
    ),
    "time-and-random": (
        """
        import datetime, uuid, os, logging
        random.seed(5); first = random.random(); random.seed(5)
        log("t", f"{first == random.random()} {random.Random(1).random():.3f} {0 < random.Random().random() < 1}")
        log("t", f"{time.time():.1f} {datetime.datetime.now().year} {time.perf_counter() == time.monotonic()}")
        log("t", f"{datetime.datetime.now() - datetime.datetime.now()} {os.path.basename('a/b')}")
        print("printed", "here"); print("half", end=""); print(" line")
        logging.getLogger("raft").warning("from %s", "logging")
        import importlib.util, logging.handlers, logging.config
        log("t", f"{importlib.util.find_spec('no_such_module')} {logging.handlers.QueueHandler(queue.Queue()).level}")
        log("t", importlib.import_module(".thread", "concurrent.futures").__name__)
        try: importlib.import_module(".thread")
        except TypeError as exc: log("t", str(exc))
        """,
        [
            "True 0.134 True",
            "1700000000.0 2023 True",
            "0:00:00 b",
            "printed here",
            "half line",
            "from logging",
            "None 0",
            "concurrent.futures.thread",
            "the 'package' argument is required to perform a relative import for '.thread'",
        ],
    ),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_works_in_virtual_time(name: str, write_raft: Write) -> None:
    init, expected = LIBRARY[name]
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        c.sleep(10)
        assert lines_of(c) == expected


def test_a_wait_ends_just_after_its_deadline(write_raft: Write) -> None:
    """`while now <= deadline: wait(deadline - now)` is common and correct. Such a loop must not wait for 0 s again and
    again."""
    init = """
        cond, turns = threading.Condition(), []
        def main():
            deadline = time.monotonic() + 0.5
            with cond:
                while time.monotonic() <= deadline:
                    turns.append(1)
                    cond.wait(deadline - time.monotonic())
            log("t", str(len(turns)))
        threading.Thread(target=main).start()
    """
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        c.sleep(2)
        assert lines_of(c) == ["1"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_thread_is_woken_at_the_instant_its_timeout_expires(write_raft: Write, seed: int) -> None:
    """A thread that is woken at the instant when its timeout expires must continue only once: its next wait must not be cut
    short."""
    init = """
        event, lock = threading.Event(), threading.Lock()
        def waiter():
            event.wait(0.5)
            before = time.monotonic()
            time.sleep(1.0)
            log("t", f"{time.monotonic() - before:.3f}")
        def setter():
            time.sleep(0.5)
            event.set()
        def holder():
            with lock: time.sleep(0.5)
        def taker():
            time.sleep(0)
            if lock.acquire(timeout=0.5): lock.release()
            before = time.monotonic()
            time.sleep(1.0)
            log("t", f"{time.monotonic() - before:.3f}")
        for run in (waiter, setter, holder, taker): threading.Thread(target=run).start()
    """
    with sim_cluster(write_raft(init), seed=seed, schedule="random") as c:
        c.start_all()
        c.sleep(5)
        assert [float(line) >= 1.0 for line in lines_of(c)] == [True, True]


def test_servers_do_not_share_modules(write_raft: Write) -> None:
    module = "seen = []"
    with sim_cluster(write_raft("seen.append(me); log('t', str(seen))", module=module), servers=3) as c:
        c.start_all()
        c.restart(1)
        assert [lines_of(c, server) for server in range(3)] == [["[0]"], ["[1]", "[1]"], ["[2]"]]


def test_each_server_draws_its_own_random_numbers(write_raft: Write) -> None:
    with sim_cluster(write_raft("log('t', str(random.random()))"), servers=3) as c:
        c.start_all()
        c.restart(0)
        drawn = [line for server in range(3) for line in lines_of(c, server)]
    assert len(set(drawn)) == 4


def test_pickle_finds_each_servers_own_classes(write_raft: Write) -> None:
    init = """
        import pickle
        old = persister.state()
        if old: log("t", str(pickle.loads(old) == [LogEntry(1, "x")]))
        persister.save(pickle.dumps([LogEntry(1, "x")]))
        def later():
            time.sleep(1)
            log("t", str(pickle.loads(pickle.dumps(LogEntry(2, me))) == LogEntry(2, me)))
        threading.Thread(target=later).start()
    """
    with sim_cluster(write_raft(init), servers=3) as c:
        c.start_all()
        c.sleep(2)
        c.restart(1)
        c.sleep(2)
        assert [lines_of(c, server) for server in range(3)] == [["True"], ["True", "True", "True"], ["True"]]


def test_a_submission_of_several_modules(write_raft: Write) -> None:
    folder = write_raft("log('t', f'{helper.twice(me)} {parts.deep.value}')", module="import helper, parts.deep")
    (folder / "helper.py").write_text("import threading\ndef twice(n):\n    return 2 * n\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("from . import deep\n")
    (folder / "parts" / "deep.py").write_text("import time\nvalue = time.monotonic()\n")
    with sim_cluster(folder, servers=2) as c:
        c.start_all()
        assert lines_of(c, 1) == ["2 1000.0"]


def test_a_crash_runs_no_finally_blocks(write_raft: Write) -> None:
    init = """
        def forever():
            try: time.sleep(100)
            finally: log("t", "finally")
        threading.Thread(target=forever).start()
    """
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        c.sleep(1)
        c.crash(0)
        c.sleep(200)
        assert lines_of(c) == []


def test_clock_rate_and_pause(write_raft: Write) -> None:
    init = """
        def tick():
            while True:
                time.sleep(1)
                log("t", f"{time.monotonic():.0f}")
        threading.Thread(target=tick).start()
    """
    with sim_cluster(write_raft(init), servers=2) as c:
        c.start_all()
        c.clock_rate(0, 2.0)
        c.sleep(2.9)
        # A wait that has already begun keeps its end. Later waits follow the new rate.
        assert lines_of(c, 0) == ["1002", "1003", "1004", "1005"]
        assert lines_of(c, 1) == ["1001", "1002"]
        c.pause(1)
        c.sleep(5)
        assert lines_of(c, 1) == ["1001", "1002"]
        c.resume(1)
        c.sleep(0.5)
        # One wait ended while the server was paused. Its clock went on, so the time is 1008 when the thread continues.
        assert lines_of(c, 1) == ["1001", "1002", "1008"]


def test_the_date_continues_after_a_restart(write_raft: Write) -> None:
    """A server may save a date and compare it after a restart. A monotonic clock begins anew, as after a reboot."""
    with sim_cluster(write_raft('log("t", f"{time.time():.0f} {time.monotonic():.0f}")')) as c:
        c.start_all()
        c.sleep(60)
        c.crash(0)
        c.restart(0)
        assert lines_of(c) == ["1700000000 1000", "1700000060 1000"]


def test_the_date_is_as_fast_as_the_clock_even_across_restarts(write_raft: Write) -> None:
    """Otherwise, a saved promise to vote for nobody until some date would end too early if the server has a slow clock."""
    with sim_cluster(write_raft('log("t", f"{time.time():.0f} {time.monotonic():.0f}")')) as c:
        c.clock_rate(0, 0.5)
        c.start_all()
        c.sleep(60)
        for _ in range(2):
            c.crash(0)
            c.sleep(20)
            c.restart(0)
            c.sleep(20)
        assert lines_of(c) == ["1700000000 1000", "1700000040 1000", "1700000060 1000"]


def test_stdout_has_the_interface_of_a_text_stream(write_raft: Write) -> None:
    init = """
        import sys
        sys.stdout.reconfigure(line_buffering=True)
        sys.stdout.buffer.write(b"as bytes\\n")
        log("t", f"{sys.stdout.name} {sys.stdout.encoding} {sys.stderr.name} {sys.stdout.isatty()}")
        print("as text", flush=True)
        try: sys.stdout.fileno()
        except OSError as exc: log("t", type(exc).__name__)
    """
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        assert lines_of(c) == ["as bytes", "<stdout> utf-8 <stderr> False", "as text", "UnsupportedOperation"]


def test_futures_are_locked_in_the_order_in_which_they_were_created() -> None:
    base = make_copies()["concurrent.futures._base"].__dict__
    futures = [base["Future"]() for _ in range(50)]
    assert base["_AcquireFutures"](set(futures)).futures == futures
    assert sorted(futures, key=hash) == futures


def test_a_server_that_crashes_while_it_submits_work_does_not_stop_the_others(write_raft: Write) -> None:
    """The executors of all servers share a lock. It must not stay locked when the server that holds it crashes."""
    init = """
        from concurrent.futures import ThreadPoolExecutor
        def work():
            for number in range(1000):
                with ThreadPoolExecutor(2) as pool:
                    assert pool.submit(int, 3).result() == 3
                if number % 100 == 99: log("t", str(number + 1))
                time.sleep(0.01)
        threading.Thread(target=work).start()
    """
    with sim_cluster(write_raft(init), servers=2, schedule="release") as c:
        c.start_all()
        for _ in range(60):
            c.sleep(0.1)
            c.restart(0)
        c.sleep(20)
        assert lines_of(c, 1)[-1:] == ["1000"]
