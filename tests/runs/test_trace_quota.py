"""If not all traces fit, the same traces are kept whatever the order of the runs, and however often a grading restarts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlab.runs.trace_quota import Place, TraceQuota

MOST = 100
Failed = dict[Place, int]  # for each run that failed, the number of bytes of its trace
FAILED = st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 3)), st.integers(1, 120), max_size=20)


def name(place: Place) -> str:
    return f"test{place[1]}-{place[0]}.jsonl"


def write(folder: Path, place: Place, size: int) -> str:
    folder.mkdir(exist_ok=True)
    header = b"somewhere" * (1 + hash(place) % 3) + b"\n"  # of a header, only the failure counts towards the quota
    (folder / name(place)).write_bytes(header + bytes(size))
    return name(place)


def there(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.exists() else set()


def fitting(failed: Failed) -> set[str]:
    """The traces that should be kept, computed without a ``TraceQuota``."""
    inside: set[str] = set()
    together = 0
    for place, size in sorted(failed.items()):
        together += size
        if together > MOST:
            break
        inside.add(name(place))
    return inside


@pytest.mark.slow
@settings(derandomize=True, deadline=None)  # files can be slow on a busy machine
@given(failed=FAILED, data=st.data())
def test_kept_traces_do_not_depend_on_order_or_restarts(failed: Failed, data: st.DataObject) -> None:
    order = data.draw(st.permutations(sorted(failed)))
    killed_at = data.draw(st.integers(0, len(order)))
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "traces"
        room = TraceQuota(folder, MOST)
        told: set[str] = set()

        def took(place: Place, trace: str) -> None:
            told.add(trace)
            told.difference_update(name(gone) for gone in room.took(place, trace))

        for number, place in enumerate(order):
            if number == killed_at:
                # A grading that goes on after a restart counts the traces that the records name, in any order, even those
                # that no longer exist.
                room = TraceQuota(folder, MOST)
                told.clear()
                for earlier in data.draw(st.permutations(order[:number])):
                    took(earlier, name(earlier))
            took(place, write(folder, place, failed[place]))
            assert sum(len(file.read_bytes().partition(b"\n")[2]) for file in folder.iterdir()) <= MOST
        assert there(folder) == told == fitting(failed)


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(failed=FAILED, data=st.data())
def test_kept_traces_do_not_depend_on_the_jobs(failed: Failed, data: st.DataObject) -> None:
    """Each job has the same quota as the whole submission, so a trace that does not fit into the quota of its job does not
    fit into that of the submission either."""
    places = data.draw(st.permutations(sorted(failed)))
    cut = data.draw(st.integers(0, len(places)))
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "traces"
        records: list[tuple[Place, str]] = []
        for job in (places[:cut], places[cut:]):
            room = TraceQuota(folder, MOST)
            for place in job:
                wanted = room.folder_for(place) is not None
                records.append((place, write(folder, place, failed[place]) if wanted else ""))
                room.took(*records[-1])
        whole = TraceQuota(folder, MOST)
        for place, trace in data.draw(st.permutations(records)):
            whole.took(place, trace)
        assert there(folder) == fitting(failed)


def test_a_trace_over_the_quota_need_not_be_written(tmp_path: Path) -> None:
    room = TraceQuota(tmp_path, MOST)
    assert room.folder_for((5, 0)) == tmp_path
    assert room.took((1, 0), write(tmp_path, (1, 0), 90)) == []
    assert room.took((5, 0), write(tmp_path, (5, 0), 20)) == [(5, 0)]
    assert room.folder_for((5, 0)) is None
    assert room.folder_for((5, 1)) is None
    assert room.folder_for((4, 9)) == tmp_path
    assert there(tmp_path) == {name((1, 0))}


def test_the_failure_in_the_header_counts(tmp_path: Path) -> None:
    for number, failure in enumerate((b"null", b'{"kind":"exception","text":"%s"}' % (b"x" * 60))):
        header = b'{"trace":1,"replay":"somewhere","failure":%s}\n' % failure
        (tmp_path / name((number, 0))).write_bytes(header + bytes(30))
    quota = TraceQuota(tmp_path, MOST)
    assert quota.took((0, 0), name((0, 0))) == []
    assert quota.took((1, 0), name((1, 0))) == [(1, 0)]


def test_a_run_that_is_repeated_counts_once(tmp_path: Path) -> None:
    room = TraceQuota(tmp_path, MOST)
    for size in (90, 60, 80):
        assert room.took((0, 0), write(tmp_path, (0, 0), size)) == []
    assert room.took((0, 1), write(tmp_path, (0, 1), 20)) == []
    assert room.took((0, 0), write(tmp_path, (0, 0), 81)) == [(0, 1)]


def test_traces_are_kept_again_after_their_folder_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    room = TraceQuota(folder, MOST)
    assert room.took((0, 0), name((0, 0))) == [(0, 0)]
    assert room.took((1, 0), write(folder, (1, 0), 10)) == []


def test_quotas_without_a_limit_or_a_folder(tmp_path: Path) -> None:
    room = TraceQuota(tmp_path, -1)
    assert room.took((0, 0), write(tmp_path, (0, 0), 1000)) == []
    assert room.folder_for((9, 9)) == tmp_path
    assert TraceQuota(None, MOST).folder_for((0, 0)) is None
