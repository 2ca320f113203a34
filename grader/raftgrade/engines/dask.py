"""The Dask engine: run jobs on the workers of a cluster, through ``concurrent.futures.Executor``.

Workers share no disk with us: a message carries everything that a job needs, including the submission's files, and the
answer brings back records and traces as plain bytes. A job may run twice (Dask restarts the jobs of a dead worker), which is
harmless because the tally counts only the first outcome of a run. If the cluster loses a job for good, its runs count
as not judged, which costs no points.
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

from raftgrade.engines.child_processes import MAX_LINE_BYTES, Children
from raftgrade.engines.commands import TRACE_QUOTA, Commands
from raftgrade.engines.jobs import CheckResult, JobResult, run_check, run_job
from raftgrade.engines.work_loop import Engine
from raftgrade.plan import NETWORKS, CannotStart, Job, Pool, Settings
from raftgrade.results import Problem, SubmissionResult
from raftgrade.store import Store
from raftlab.explain.failure import Failure
from raftlab.runs.record import SCHEMA, Record, to_line
from raftlab.runs.run import replay_command, trace_name
from raftlab.runs.trace_quota import TraceQuota
from raftlab.safe_text import one_line, printable
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Level

MAX_BYTES = 20_000_000  # the size of all files of a submission
MAX_PROBLEMS = 100  # how many problems of a submission a worker's answer may list
ATTEMPTS = 2  # if the cluster loses a job this often, its runs count as not judged
_ANSWER_S = 15.0  # seconds to wait for the scheduler's first answer
_COUNT_S = 5.0  # for this many seconds, a count of the workers is reused
_LOG_TAIL_BYTES = 64_000  # how many bytes at the end of a job's output are sent with the answer
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

T = TypeVar("T")


class RemoteJob(msgspec.Struct, kw_only=True):
    """The task of a worker: a job, or (without ``job``) the check of a submission. ``files`` is a zip of the submission.
    ``main`` is the name of the submission's only file, or empty if the submission is a folder."""

    files: bytes
    main: str
    job: Job | None = None
    submission: str = ""
    labs: list[str] = []
    sandbox: Level = "none"


class Answer(msgspec.Struct, kw_only=True):
    """The answer of a worker. ``traces`` are compressed with zlib, by file name."""

    finished: JobResult | None = None
    checked: CheckResult | None = None
    traces: dict[str, bytes] = {}
    log: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode_job = msgspec.msgpack.Decoder(RemoteJob).decode
_read_answer = msgspec.msgpack.Decoder(Answer).decode


# --- at the worker ---


class WorkerWithoutSandbox(Exception):
    """The sandbox that the grader uses does not work on this worker. The message says on which machine, and why."""


@lru_cache
def missing_sandbox(level: Level) -> str:
    """The reason why the sandbox ``level`` does not work on this machine; empty if it works. Each process tries a
    sandbox only once."""
    if level == "none":
        return ""
    available = levels.probe(level)
    return "" if available.level == level else available.reason


def carry_out(message: bytes, commands: Commands) -> bytes:
    """Run a job or a check in a worker. The arguments contain everything that is needed, and no files are left behind.

    Args:
        message: an encoded :class:`RemoteJob`.

    Returns:
        An encoded :class:`Answer`.

    Raises:
        WorkerWithoutSandbox: the sandbox works on the grader's machine, but not on this worker's.
    """
    remote = _decode_job(message)
    level = remote.sandbox if remote.job is None else remote.job.sandbox
    reason = missing_sandbox(level)
    if reason:
        raise WorkerWithoutSandbox(
            f"the worker on {platform.node()} cannot run student code in the sandbox ({level}): {reason}"
        )
    with TemporaryDirectory(prefix="raftgrade-") as name:
        folder = Path(name)
        place = folder / "submission"
        with zipfile.ZipFile(io.BytesIO(remote.files)) as archive:
            archive.extractall(place)
        path = str(place / remote.main) if remote.main else str(place)
        log = folder / "log.txt"
        answer = Answer()
        if remote.job is None:
            answer.checked = run_check(
                remote.submission, path, remote.labs, remote.sandbox, commands=commands, children=Children(), log=log
            )
        else:
            job = msgspec.structs.replace(remote.job, path=path)
            traces = folder / "traces"
            answer.finished = run_job(job, commands=commands, children=Children(), log=log, traces=traces)
            answer.traces = _packed(traces, answer.finished)
        if log.exists():
            answer.log = log.read_bytes()[-_LOG_TAIL_BYTES:]
        # The worker's own paths mean nothing elsewhere.
        shown = remote.job.path if remote.job is not None else remote.main or remote.submission
        for old, new in ((path, shown), (name, "(worker)")):
            answer = _replaced(answer, old, new)
        return _encode(answer)


def _packed(folder: Path, finished: JobResult) -> dict[str, bytes]:
    """The traces of a job, compressed, as far as they fit into the grader's quota."""
    quota = TraceQuota(folder, TRACE_QUOTA)
    tests = list(dict.fromkeys(record.test for record in finished.records))
    for record in finished.records:
        quota.took((record.seed, tests.index(record.test)), record.trace)
    return {path.name: zlib.compress(path.read_bytes(), 1) for path in folder.glob("*.jsonl")}


def _replaced(answer: Answer, old: str, new: str) -> Answer:
    """``answer`` with ``old`` replaced in every text."""

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(old, new)
        if isinstance(value, list):
            return [replaced(item) for item in value]
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        return value

    plain = msgspec.to_builtins(answer, builtin_types=(bytes,))
    return msgspec.convert(replaced(plain), Answer)


# --- at the grader ---


class Dask:
    """Runs jobs on any executor whose workers can import raftgrade.

    Args:
        executor: the executor of a Dask client, or (in tests) any other executor.
        threads: returns how many jobs all workers together can run now. The number changes, because workers come and go.
        close: called when the grading run ends.
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

    def pools(self) -> list[Pool]:
        """One pool for both networks. Twice as many jobs are handed out as can run at a time, so that no worker waits for
        us."""
        now = time.monotonic()
        if now - self._counted >= _COUNT_S:
            self._counted, self._threads = now, max(1, self._count())
        return [Pool(NETWORKS, self._threads, 2 * self._threads)]

    def check(self, submission: SubmissionResult, path: str) -> Future[CheckResult]:
        name = submission.name
        labs = [lab for lab in self._settings.labs if lab not in submission.missing]

        def convert(answer: Answer) -> CheckResult:
            checked = answer.checked
            if (
                checked is None
                or checked.submission != name
                or checked.stopped
                or len(checked.problems) > MAX_PROBLEMS
                or not checked.missing.keys() <= set(labs)
            ):
                raise WrongAnswer("a worker did not answer the check that it was given")
            if checked.problems and answer.log:
                self._store.log(f"{submission.slug}.check").write_bytes(answer.log[-_LOG_TAIL_BYTES:])
            return checked

        def lost(why: str) -> CheckResult:
            problem = Problem(f"could not be judged: the cluster lost the check of the submission: {why}")
            return CheckResult(name, [problem], judged=False)

        try:
            remote = RemoteJob(
                files=_files(path),
                main=_main(path),
                submission=name,
                labs=labs,
                sandbox=self._settings.level,
            )
        except (OSError, TooLarge) as exc:
            done: Future[CheckResult] = Future()
            done.set_result(lost(str(exc)))
            return done
        return self._send(_encode(remote), convert, lost)

    def job(self, job: Job, on_record: Callable[[Record], None]) -> Future[JobResult]:
        def convert(answer: Answer) -> JobResult:
            return self._store_answer(job, answer)

        def lost(why: str) -> JobResult:
            text = f"could not be judged: the cluster lost this job, {ATTEMPTS} times: {why}"
            failure = Failure("not-judged", text, hint="This run neither earns nor costs points: run raftgrade again.")
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
            message = _encode(RemoteJob(files=_files(job.path), main=_main(job.path), job=job))
        except (OSError, TooLarge) as exc:
            done: Future[JobResult] = Future()
            done.set_result(lost(str(exc)))
            return done
        return self._send(message, convert, lost)

    def stop(self) -> None:
        """Cancel jobs that have not begun. Running jobs go on to their end, but their answers are ignored."""
        self._stopped = True
        self._executor.shutdown(wait=False)
        self._close()

    def _send(self, message: bytes, convert: Callable[[Answer], T], lost: Callable[[str], T]) -> Future[T]:
        result_future: Future[T] = Future()
        attempts = 0

        def send() -> None:
            nonlocal attempts
            attempts += 1
            try:
                self._executor.submit(carry_out, message, self._commands).add_done_callback(answered)
            except Exception as exc:
                result_future.set_result(lost(_error_text(exc)))

        def answered(inner: Future[bytes]) -> None:
            if self._stopped:
                return
            try:
                result = convert(_read_answer(inner.result()))
            except BaseException as exc:
                if attempts < ATTEMPTS:
                    send()
                else:
                    result_future.set_result(lost(_error_text(exc)))
                return
            result_future.set_result(result)

        send()
        return result_future

    def _store_answer(self, job: Job, answer: Answer) -> JobResult:
        """Store an answer where a local job would have stored its output and traces.

        Raises:
            WrongAnswer: it is not the answer to ``job``.
        """
        records = _records_of(job, answer)
        folder = self._store.traces(job.slug)
        if answer.log:
            self._store.log(job.id).write_bytes(answer.log[-_LOG_TAIL_BYTES:])
        room = TRACE_QUOTA
        for record in records:
            if record.replay:
                record.replay = replay_command(
                    f"{record.test}@{record.seed}", job.path, record.network, record.schedule
                )
            if record.trace:
                # A trace over the worker's quota was not sent. The tally counts it as removed.
                file = folder / trace_name(record.lab, record.test, record.network, record.seed)
                record.trace = str(file)
                folder.mkdir(parents=True, exist_ok=True)
                if file.name in answer.traces:
                    trace = _decompressed(answer.traces[file.name], room)
                    room -= len(trace)
                    file.write_bytes(_with_replay(trace, record.replay))
        return JobResult(job.id, job.submission, records)


def _records_of(job: Job, answer: Answer) -> list[Record]:
    """The records in the answer to ``job``: one for each of its runs. Raises :class:`WrongAnswer`."""
    finished = answer.finished
    if finished is None or (finished.job, finished.submission, finished.stopped) != (job.id, job.submission, False):
        raise WrongAnswer("a worker did not answer the job that it was given")
    runs = [(record.test, record.seed) for record in finished.records]
    if sorted(runs) != sorted(job.runs):
        raise WrongAnswer("a worker's answer does not have the runs of the job that it was given")
    if any(
        (record.schema, record.lab, record.network) != (SCHEMA, job.lab, job.network) for record in finished.records
    ):
        raise WrongAnswer("a worker's answer has runs of another lab or network")
    if any(len(to_line(record)) > MAX_LINE_BYTES for record in finished.records):
        raise WrongAnswer("a worker's answer has a record that is too long")
    return finished.records


def _decompressed(data: bytes, most: int) -> bytes:
    """A trace. Raises :class:`WrongAnswer` if it has more than ``most`` bytes."""
    unpacker = zlib.decompressobj()
    trace = unpacker.decompress(data, max(1, most))
    if not unpacker.eof:
        raise WrongAnswer("a worker's answer has traces that are too long")
    return trace


def _with_replay(trace: bytes, replay: str) -> bytes:
    """``trace`` with the command ``replay`` in its header, because the submission's path is different on this
    machine."""
    header, _, events = trace.partition(b"\n")
    try:
        fields = msgspec.json.decode(header, type=dict[str, Any])
    except msgspec.DecodeError:
        return trace
    return msgspec.json.encode({**fields, "replay": replay}) + b"\n" + events


def _error_text(exc: BaseException) -> str:
    return one_line(f"{type(exc).__name__}: {exc}", 200)


class WrongAnswer(Exception):
    """A worker's answer does not belong to its task."""


class TooLarge(Exception):
    """The submission is too large to be sent to workers."""


def _main(path: str) -> str:
    return Path(path).name if Path(path).is_file() else ""


@lru_cache(maxsize=32)
def _files(path: str) -> bytes:
    """The submission as a zip of plain files. Links are left out, because they could lead outside the submission."""
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
                raise TooLarge(f"expected a submission of at most {MAX_BYTES // 1_000_000} MB, but this one is larger")
            archive.writestr(zipfile.ZipInfo(inside), file.read_bytes())
    return buffer.getvalue()


def connect(
    address: str | None, ca: str | None, cert: str | None, key: str | None
) -> Callable[[Settings, Commands, Store], Engine]:
    """Connect to the Dask scheduler at ``address``. ``ca``, ``cert`` and ``key`` are paths of PEM files, for ``tls://``.

    Returns:
        A function that makes the engine of a grading run.

    Raises:
        CannotStart: the options do not fit together, or there is no such cluster.
    """
    if address is None:
        raise CannotStart("--engine dask needs --scheduler ADDRESS, such as tls://host:8786")
    shown = printable(address)
    scheme, colon, host = address.partition("://")
    if not colon:
        scheme, host = "tcp", address
    if scheme not in ("tcp", "tls"):
        raise CannotStart(f"--scheduler expects tls://host:port, not {shown}")
    files = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    if scheme == "tcp" and host.rpartition(":")[0] not in _LOOPBACK:
        raise CannotStart(f"anyone could connect to {shown}: expected tls://, or a scheduler on 127.0.0.1")
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
        raise CannotStart(f"no Dask scheduler answers at {shown}: {_error_text(exc)}") from None
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
