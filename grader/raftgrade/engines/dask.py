"""The engine of many machines: jobs go to the workers of a Dask cluster, over ``concurrent.futures.Executor``.

A parcel carries all that a job needs, the submission's files included, and brings back records and traces as plain
bytes: workers share no disk with us. A job may be carried out twice (Dask starts what a dead worker had again); its id and
the tally's first-outcome rule make that harmless. A job that the cluster loses for good could not be judged, which costs
nobody a mark.
"""

from __future__ import annotations

import io
import platform
import time
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec

from raftgrade.engines.child_processes import Children
from raftgrade.engines.commands import TRACE_QUOTA, Commands
from raftgrade.engines.jobs import CheckResult, JobResult, run_check, run_job
from raftgrade.engines.work_loop import Engine
from raftgrade.plan import CannotStart, Job, Settings
from raftgrade.results import Problem, SubmissionResult
from raftgrade.store import Store
from raftlab.explain.failure import Failure
from raftlab.runs.record import Record
from raftlab.runs.run import replay_command
from raftlab.runs.trace_quota import TraceQuota
from raftlab.safe_text import one_line, printable
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Level

MAX_BYTES = 20_000_000  # of a submission's files
ATTEMPTS = 2  # after which a job that the cluster lost could not be judged
_ANSWER_S = 15.0  # for the scheduler's first answer
_COUNT_S = 5.0  # between two looks at how many workers there are
_LOG_TAIL = 64_000
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

T = TypeVar("T")


class RemoteJob(msgspec.Struct, kw_only=True):
    """What a worker is asked to do: a job, or the check of a submission. ``files`` is a zip, in which the submission is
    called ``main``."""

    files: bytes
    main: str
    job: Job | None = None
    submission: str = ""
    labs: list[str] = []
    sandbox: Level = "none"


class Answer(msgspec.Struct, kw_only=True):
    """What a worker brings back. ``traces`` are packed."""

    finished: JobResult | None = None
    checked: CheckResult | None = None
    traces: dict[str, bytes] = {}
    log: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_read_errand = msgspec.msgpack.Decoder(RemoteJob).decode
_read_answer = msgspec.msgpack.Decoder(Answer).decode


# --- at the worker ---


class WorkerWithoutSandbox(Exception):
    """The sandbox that the grader uses does not work on this worker. The message says on which machine, and why."""


@lru_cache
def missing_sandbox(level: Level) -> str:
    """Why ``level`` does not hold on this machine; empty if it does. Tried once in a process."""
    if level == "none":
        return ""
    found = levels.probe(level)
    return "" if found.level == level else found.reason


def carry_out(errand: bytes, commands: Commands) -> bytes:
    """Do an errand. Runs in a worker; everything it needs is in its arguments, and nothing stays behind. Raises
    :class:`WorkerWithoutSandbox`: the grader has tested the sandbox on its own machine, not on this one."""
    asked = _read_errand(errand)
    level = asked.sandbox if asked.job is None else asked.job.sandbox
    why = missing_sandbox(level)
    if why:
        raise WorkerWithoutSandbox(
            f"the worker on {platform.node()} cannot run student code in the sandbox ({level}): {why}"
        )
    with TemporaryDirectory(prefix="raftgrade-") as name:
        folder = Path(name)
        place = folder / "submission"
        with zipfile.ZipFile(io.BytesIO(asked.files)) as archive:
            archive.extractall(place)
        path = str(place / asked.main) if asked.main else str(place)
        log = folder / "log.txt"
        answer = Answer()
        if asked.job is None:
            answer.checked = run_check(
                asked.submission, path, asked.labs, asked.sandbox, commands=commands, children=Children(), log=log
            )
        else:
            job = msgspec.structs.replace(asked.job, path=path)
            traces = folder / "traces"
            answer.finished = run_job(job, commands=commands, children=Children(), log=log, traces=traces)
            answer.traces = _packed(traces, answer.finished)
        if log.exists():
            answer.log = log.read_bytes()[-_LOG_TAIL:]
        # Where this was done is nobody's business, and differs from worker to worker.
        shown = asked.job.path if asked.job is not None else asked.main or asked.submission
        for old, new in ((path, shown), (name, "(worker)")):
            answer = _renamed(answer, old, new)
        return _encode(answer)


def _packed(folder: Path, finished: JobResult) -> dict[str, bytes]:
    """The traces of a job that can have room at home."""
    room = TraceQuota(folder, TRACE_QUOTA)
    tests = list(dict.fromkeys(record.test for record in finished.records))
    for record in finished.records:
        room.took((record.seed, tests.index(record.test)), record.trace)
    return {path.name: zlib.compress(path.read_bytes(), 1) for path in folder.glob("*.jsonl")}


def _renamed(answer: Answer, old: str, new: str) -> Answer:
    """``answer`` with ``old`` replaced in every text."""

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(old, new)
        if isinstance(value, list):
            return [renamed(item) for item in value]
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        return value

    plain = msgspec.to_builtins(answer, builtin_types=(bytes,))
    return msgspec.convert(renamed(plain), Answer)


# --- at the grader ---


class Dask:
    """Runs jobs on any executor whose workers can import raftgrade.

    Args:
        executor: a Dask client's, or (in tests) any other.
        threads: how many jobs the workers run at a time by now; workers come and go.
        close: called at the end.
    """

    def __init__(
        self,
        executor: Executor,
        threads: Callable[[], int],
        close: Callable[[], None],
        settings: Settings,
        commands: Commands,
        store: Store,
    ) -> None:
        self._executor = executor
        self._count = threads
        self._close = close
        self._settings = settings
        self._commands = commands
        self._store = store
        self._counted = -_COUNT_S
        self._threads = 1
        self._stopped = False

    @property
    def workers(self) -> int:
        now = time.monotonic()
        if now - self._counted >= _COUNT_S:
            self._counted, self._threads = now, max(1, self._count())
        return self._threads

    @property
    def max_in_flight(self) -> int:
        """Twice what is being done, so that no worker waits for us."""
        return 2 * self.workers

    def check(self, submission: SubmissionResult, path: str) -> Future[CheckResult]:
        name = submission.name

        def made(answer: Answer) -> CheckResult:
            assert answer.checked is not None
            if answer.checked.problems and answer.log:
                self._store.log(f"{submission.slug}.check").write_bytes(answer.log)
            return answer.checked

        def lost(why: str) -> CheckResult:
            problem = Problem(f"could not be judged: the check of the submission was lost by the cluster: {why}")
            return CheckResult(name, [problem], judged=False)

        try:
            errand = RemoteJob(
                files=_files(path),
                main=_main(path),
                submission=name,
                labs=self._settings.labs,
                sandbox=self._settings.level,
            )
        except (OSError, TooLarge) as exc:
            done: Future[CheckResult] = Future()
            done.set_result(lost(str(exc)))
            return done
        return self._send(_encode(errand), made, lost)

    def job(self, job: Job, on_record: Callable[[Record], None]) -> Future[JobResult]:
        def made(answer: Answer) -> JobResult:
            assert answer.finished is not None
            return self._home(job, answer)

        def lost(why: str) -> JobResult:
            text = f"could not be judged: the cluster lost this job, {ATTEMPTS} times: {why}"
            failure = Failure("not-judged", text, hint="This costs no mark and earns none: run raftgrade again.")
            records = [
                Record(
                    test=test,
                    lab=job.lab,
                    title=test,
                    network=job.network,
                    seed=seed,
                    points=0,
                    outcome="error",
                    failure=failure,
                )
                for test, seed in job.runs
            ]
            return JobResult(job.id, job.submission, records)

        try:
            errand = _encode(RemoteJob(files=_files(job.path), main=_main(job.path), job=job))
        except (OSError, TooLarge) as exc:
            done: Future[JobResult] = Future()
            done.set_result(lost(str(exc)))
            return done
        return self._send(errand, made, lost)

    def stop(self) -> None:
        """Take back what has not begun. What a worker is doing it ends by itself, and nobody listens."""
        self._stopped = True
        self._executor.shutdown(wait=False)
        self._close()

    def _send(self, errand: bytes, made: Callable[[Answer], T], lost: Callable[[str], T]) -> Future[T]:
        outer: Future[T] = Future()
        attempts = 0

        def send() -> None:
            nonlocal attempts
            attempts += 1
            try:
                self._executor.submit(carry_out, errand, self._commands).add_done_callback(back)
            except Exception as exc:
                outer.set_result(lost(_said(exc)))

        def back(inner: Future[bytes]) -> None:
            if self._stopped:
                return
            try:
                result = made(_read_answer(inner.result()))
            except BaseException as exc:
                if attempts < ATTEMPTS:
                    send()
                else:
                    outer.set_result(lost(_said(exc)))
                return
            outer.set_result(result)

        send()
        return outer

    def _home(self, job: Job, answer: Answer) -> JobResult:
        """Put what came back where a job done here would have put it."""
        assert answer.finished is not None
        folder = self._store.traces(job.slug)
        if answer.log:
            self._store.log(job.id).write_bytes(answer.log)
        for record in answer.finished.records:
            if record.replay:
                record.replay = replay_command(f"{record.test}@{record.seed}", job.path, record.network, record.preempt)
            if record.trace:
                # One that had no room at the worker has none here: the tally will find that it is not there.
                file = folder / Path(record.trace).name
                record.trace = str(file)
                folder.mkdir(parents=True, exist_ok=True)
                if file.name in answer.traces:
                    file.write_bytes(_retold(zlib.decompress(answer.traces[file.name]), record.replay))
        return answer.finished


def _retold(trace: bytes, replay: str) -> bytes:
    """``trace`` with the command in its header that replays it here."""
    header, _, events = trace.partition(b"\n")
    try:
        told = msgspec.json.decode(header, type=dict[str, Any])
    except msgspec.DecodeError:
        return trace
    return msgspec.json.encode({**told, "replay": replay}) + b"\n" + events


def _said(exc: BaseException) -> str:
    return one_line(f"{type(exc).__name__}: {exc}", 200)


class TooLarge(Exception):
    """The submission is too large to be sent around."""


def _main(path: str) -> str:
    return Path(path).name if Path(path).is_file() else ""


@lru_cache(maxsize=32)
def _files(path: str) -> bytes:
    """The submission as a zip: plain files, and no link that could lead out of it."""
    root = Path(path)
    buffer = io.BytesIO()
    total = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in [root] if root.is_file() else sorted(root.rglob("*")):
            inside = file.name if root.is_file() else str(file.relative_to(root))
            parts = Path(inside).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if hidden or not file.is_file() or (file.is_symlink() and file != root):
                continue
            total += file.stat().st_size
            if total > MAX_BYTES:
                raise TooLarge(f"expected a submission of at most {MAX_BYTES // 1_000_000} MB, this one has more")
            archive.writestr(zipfile.ZipInfo(inside), file.read_bytes())
    return buffer.getvalue()


def connect(
    address: str | None, ca: str | None, cert: str | None, key: str | None
) -> Callable[[Settings, Commands, Store], Engine]:
    """An engine on the cluster at ``address``. Raises :class:`raftgrade.plan.CannotStart`."""
    if address is None:
        raise CannotStart("--engine dask needs --scheduler ADDRESS, such as tls://host:8786")
    shown = printable(address)
    scheme, colon, host = address.partition("://")
    if not colon:
        scheme, host = "tcp", address
    if scheme not in ("tcp", "tls"):
        raise CannotStart(f"--scheduler wants tls://host:port, not {shown}")
    files = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    if scheme == "tcp" and host.rpartition(":")[0] not in _LOOPBACK:
        raise CannotStart(f"{shown} is open to whoever reaches it: expected tls://, or a scheduler on 127.0.0.1")
    missing = [name for name, value in files.items() if value is None]
    if scheme == "tls" and missing:
        raise CannotStart(f"a tls:// scheduler needs {', '.join(missing)} too")
    for name, value in files.items():
        if value is not None and not Path(value).is_file():
            raise CannotStart(f"{name}: there is no {printable(value)}")
    try:
        from distributed import Client, Security
    except ImportError:
        raise CannotStart("--engine dask needs the extra cluster: pip install 'raftlab[cluster]'") from None
    security = None
    if scheme == "tls":
        security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)
    try:
        client = Client(address, security=security, timeout=_ANSWER_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as exc:
        raise CannotStart(f"no Dask scheduler answers at {shown}: {_said(exc)}") from None
    if not client.nthreads():
        client.close()
        raise CannotStart(f"the Dask scheduler at {shown} has no workers yet: start some with dask worker {shown}")

    def make(settings: Settings, commands: Commands, store: Store) -> Engine:
        return Dask(
            client.get_executor(pure=False),
            lambda: sum(client.nthreads().values()),
            client.close,
            settings,
            commands,
            store,
        )

    return make
