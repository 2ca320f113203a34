"""Test that a real Dask cluster with TLS gives the same marks as one machine, even if a worker is killed. It takes about two
minutes:

python -m pytest -n 0 -s --timeout 900 benchmarks/test_dask_cluster.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.class_run import verdicts
from tests.conftest import SKELETON, SOLUTION

pytest.importorskip("distributed", reason="distributed is not installed (it is the cluster extra)")
OPENSSL = shutil.which("openssl")
WORKERS = 3


def certificates(folder: Path) -> list[str]:
    """Create a certificate authority and one certificate for all processes. Returns the options with which a process uses
    the certificate."""

    def openssl(*args: str) -> None:
        assert OPENSSL is not None
        subprocess.run([OPENSSL, *args], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes", "-subj")
    openssl("req", "-x509", *new, "/CN=a test's authority", "-days", "1", "-keyout", "ca-key.pem", "-out", "ca.pem")
    openssl("req", *new, "/CN=a test", "-keyout", "key.pem", "-out", "request.pem")
    signed = ("-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "1", "-out", "cert.pem")
    openssl("x509", "-req", "-in", "request.pem", *signed)
    return ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]


@contextmanager
def running(log: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in its own process group, and kill the whole group at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", *args], stdout=output, stderr=output, process_group=0)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def traces(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "traces").rglob("*.jsonl"))}


@pytest.mark.skipif(OPENSSL is None, reason="openssl, which creates the certificates, is not installed")
def test_cluster_gives_the_same_marks_even_if_a_worker_dies(tmp_path: Path) -> None:
    for name, source in (("alice", SOLUTION), ("bob", SKELETON), ("carol", SOLUTION)):
        (tmp_path / "class" / name).mkdir(parents=True)
        shutil.copyfile(source, tmp_path / "class" / name / "raft.py")
    own = certificates(tmp_path)
    tls = ["--tls-ca-file", str(tmp_path / "ca.pem"), *own]
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tls://127.0.0.1:{free.getsockname()[1]}"
    grade = ["raftgrade", "run", str(tmp_path / "class"), "--labs", "2A", "--network", "sim", "--runs", "4"]
    on_cluster = [*grade, "--out", str(tmp_path / "cluster"), "--engine", "dask", "--scheduler", address]
    with ExitStack() as stack:
        port = address.rpartition(":")[2]
        scheduler = ("distributed.cli.dask_scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", port)
        stack.enter_context(running(tmp_path / "scheduler.txt", *scheduler, "--no-dashboard", *tls))
        workers = []
        for number in range(WORKERS):
            options = ["--local-directory", str(tmp_path / f"w{number}"), "--no-dashboard", "--nthreads", "1"]
            log = tmp_path / f"worker{number}.txt"
            worker = ("distributed.cli.dask_worker", address, *options, "--no-nanny", *tls)
            workers.append(stack.enter_context(running(log, *worker)))
        while not all("Registered to" in (tmp_path / f"worker{n}.txt").read_text() for n in range(WORKERS)):
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.1)
        on_cluster += ["--tls-ca", str(tmp_path / "ca.pem"), *own]
        grader = stack.enter_context(running(tmp_path / "grader.txt", *on_cluster))
        records = tmp_path / "cluster" / "records.jsonl"
        while not (records.exists() and records.read_bytes().count(b"\n") > 40):
            assert grader.poll() is None, (tmp_path / "grader.txt").read_text()
            time.sleep(0.05)
        os.killpg(workers[1].pid, signal.SIGKILL)
        print(f"\n{records.read_bytes().count(chr(10).encode())} runs had arrived when a worker was killed")
        assert grader.wait() == 1, (tmp_path / "grader.txt").read_text()
        lines = records.read_bytes().splitlines()
        runs = [json.loads(line)["record"] for line in lines]
        assert len(
            {(r["test"], r["seed"], json.loads(line)["submission"]) for r, line in zip(runs, lines, strict=True)}
        ) == (len(lines))
        print(f"{len(lines)} runs, none repeated; errors: {sum(r['outcome'] == 'error' for r in runs)}")
    assert "Remove worker" in (tmp_path / "scheduler.txt").read_text()
    local = [sys.executable, "-m", *grade, "--out", str(tmp_path / "local"), "--jobs", "2"]
    assert subprocess.run(local, capture_output=True, check=False).returncode == 1
    assert verdicts(tmp_path / "local") == verdicts(tmp_path / "cluster")
    assert traces(tmp_path / "local") == traces(tmp_path / "cluster")
