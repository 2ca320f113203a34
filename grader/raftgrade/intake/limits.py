"""The limits on a submission, and the exception for one that cannot be copied."""

from __future__ import annotations

# Far above what a Raft written by hand needs.
MAX_FILES = 2000
MAX_BYTES = 50_000_000
MAX_FILE_BYTES = 5_000_000  # a larger file is left out
MAX_ARCHIVE_BYTES = 20_000_000
# An archive is refused as a zip bomb if it unpacks to more than RATIO_FROM bytes and to more than MAX_RATIO times its size.
MAX_RATIO = 100
RATIO_FROM = 5_000_000
MAX_DEPTH = 20  # levels of folders
MAX_SEEN = 50 * MAX_FILES  # the largest number of files that are examined in a folder


class CannotStage(Exception):
    """A submission cannot be copied. The message is one sentence for the student. If the machine or the network may be to
    blame (``ours``), the submission is not refused, but reported as not judged."""

    def __init__(self, text: str, ours: bool = False) -> None:
        super().__init__(text)
        self.ours = ours
