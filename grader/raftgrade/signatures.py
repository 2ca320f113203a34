"""Signatures of reports and records, by which raftgrade recognises results that it wrote itself.

A folder with results may come from anywhere, even from a student. So ``report.json`` and every line of the records are
signed with a key that lies outside of that folder, in the user's state folder. `raftgrade run` reuses only signed lines, and
`raftgrade report` shows only signed reports. The signature of a line covers everything that a result depends on: the
submission's name and files, the code that judged, and the sandbox. A folder may be moved or copied on this machine. On
another machine, or for another user, the key must be copied, too."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

import msgspec

from raftgrade.results import Report
from raftgrade.tally import Entry, RefusalEntry
from raftlab.safe_text import printable

_KEY_BYTES = 32
_encode = msgspec.json.Encoder().encode


def key_file() -> Path:
    """The path of the key: ``raftgrade/key`` in the user's state folder (XDG_STATE_HOME, by default ``~/.local/state``)."""
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state") / "raftgrade" / "key"


class BadKey(Exception):
    """A file is not a key, or other users can read it. The message says why, in one sentence."""


def key() -> bytes:
    """The key of this user (see :func:`kept_key`). If there is none, this returns a new key for this process alone. Then no
    results are reused, and the report cannot be verified later."""
    return kept_key() or secrets.token_bytes(_KEY_BYTES)


def kept_key() -> bytes | None:
    """The key of this user, which is made when it is first needed. ``None`` if it cannot be written, or if other users can
    read it."""
    with contextlib.suppress(OSError, RuntimeError):
        file = key_file()
        with contextlib.suppress(FileExistsError):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(file)
        with contextlib.suppress(BadKey):
            return read_key(file)
    return None


def read_key(file: Path) -> bytes:
    """The key in ``file``. Raises :class:`BadKey` and ``OSError``."""
    shown = printable(str(file))
    with file.open("rb") as opened:
        info = os.fstat(opened.fileno())
        data = opened.read(_KEY_BYTES + 1)
    if len(data) != _KEY_BYTES:
        raise BadKey(f"{shown} is not a key of raftgrade: a key has {_KEY_BYTES} bytes")
    if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise BadKey(
            f"other users can read {shown}, and so could sign reports: the file must belong to you and have mode 600"
        )
    return data


def _write(file: Path) -> None:
    """Write a new key atomically, so that no other process reads half of it. Raises ``FileExistsError``."""
    if file.exists():
        raise FileExistsError
    partial = file.with_name(f"key-{secrets.token_hex(8)}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "wb") as opened:
            opened.write(secrets.token_bytes(_KEY_BYTES))
        os.link(partial, file)
    finally:
        partial.unlink()


def report_digest(key: bytes) -> hmac.HMAC:
    """An HMAC to update with the bytes of ``report.json`` up to the signature. The HMAC's hex digest is the signature."""
    return hmac.new(key, b"report\n", hashlib.sha256)


class Signer:
    """Signs and checks one report and its entries.

    Args:
        key: the user's key.
        plan: the report, with its submissions.

    Attributes:
        refused: how many entries had no valid signature.
    """

    def __init__(self, key: bytes, plan: Report) -> None:
        self._key = key
        self._common = [plan.tool, plan.code, plan.settings.level, str(plan.settings.races)]
        self._labs = ",".join(plan.settings.labs)
        self._hashes = {submission.name: submission.hash for submission in plan.submissions}
        self.refused = 0

    def report_digest(self) -> hmac.HMAC:
        """See :func:`report_digest`."""
        return report_digest(self._key)

    def sign(self, entry: Entry) -> Entry:
        """``entry`` with its signature."""
        return msgspec.structs.replace(entry, signature=self._signature(entry))

    def accepts(self, entry: Entry) -> bool:
        """Whether this user has signed ``entry``, for the same files and code."""
        if hmac.compare_digest(entry.signature.encode(), self._signature(entry).encode()):
            return True
        self.refused += 1
        return False

    def _signature(self, entry: Entry) -> str:
        # Whether a submission is refused depends on the labs, too: it may lack a method that only one of the labs needs.
        labs = self._labs if isinstance(entry, RefusalEntry) else ""
        about = [*self._common, labs, entry.submission, self._hashes.get(entry.submission, "")]
        text = _encode([about, msgspec.structs.replace(entry, signature="")])
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()[:32]
