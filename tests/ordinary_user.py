"""Run a command as an ordinary user, even if the tests run as root."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT

USER = 65534

# A script that runs in a mount namespace of its own, and then runs a command as an ordinary user. Some of the files that
# Python needs may be in folders that only root can enter. The script hides each such folder behind an empty one that
# everyone can enter, and mounts there what Python needs.
_SCRIPT = """
set -e
stage=$1; shift
number=0
while [ "$1" != -- ]; do
  hidden=$1; needed=$2; shift 2
  number=$((number + 1))
  mkdir "$stage/$number"
  mount --bind "$needed" "$stage/$number"
  mountpoint -q "$hidden" || mount -t tmpfs -o mode=755 tmpfs "$hidden"
  mkdir -p "$needed"
  mount --move "$stage/$number" "$needed"
done
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"""


def as_ordinary_user(command: Sequence[str], stage: Path) -> list[str]:
    """The command line that runs ``command`` as an ordinary user.

    Args:
        command: the command, which uses this Python.
        stage: an empty folder, which the script needs while it moves mounts.
    """
    if os.geteuid() != 0:
        return list(command)
    needed = [os.path.realpath(sys.base_prefix), str(ROOT), *(path for path in sys.path if path.startswith("/"))]
    pairs = [(hidden, path) for path in dict.fromkeys(needed) if os.path.isdir(path) and (hidden := _hidden_by(path))]
    # A folder inside another one that is mounted needs no mount of its own.
    pairs = [pair for pair in pairs if not any(pair[1].startswith(f"{other[1]}/") for other in pairs)]
    arguments = [argument for pair in pairs for argument in pair]
    return [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        _SCRIPT,
        "sh",
        str(stage),
        *arguments,
        "--",
        *command,
    ]


@functools.cache
def why_not() -> str:
    """Why no command can be run as an ordinary user here; empty if one can."""
    import tempfile

    if os.geteuid() != 0:
        return ""
    if not all(map(shutil.which, ("unshare", "setpriv", "mountpoint"))):
        return "needs util-linux"
    with tempfile.TemporaryDirectory() as stage:
        command = as_ordinary_user([sys.executable, "-P", "-c", "import raftgrade.cli"], Path(stage))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"cannot become an ordinary user here: {done.stderr.strip()[-200:]}"


def _hidden_by(path: str) -> str:
    """The outermost folder above ``path`` that an ordinary user cannot enter; empty if there is none."""
    above = [str(folder) for folder in reversed(Path(path).parents)] + [path]
    return next((folder for folder in above if not os.stat(folder).st_mode & 0o001), "")
