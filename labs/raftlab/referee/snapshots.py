"""Snapshots that leaders send: a leader sends, in chunks, the bytes of a snapshot that a service took at the index that the
leader names (§7, Figure 13).

The referee checks four things about InstallSnapshot: a service took a snapshot at this index; the term is that of the
committed entry at this index; the data is that snapshot's bytes at the offset; and done is set only with the last bytes.

The rule must accept: chunks of any size up to the lab's limit, in any order, repeated, and started over; any term, if
the messages so far do not show the term of the committed entry (a single member commits without sending anything).
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.applied import StateMachineSafety
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.completeness import Completeness

# The maximum number of bytes of a snapshot in one message: the limit in the handout of lab 2D.
CHUNK_BYTES = 4096


class Snapshots(Invariant):
    """The rule about the snapshots that leaders send.

    Args:
        applies: The record of the snapshots that services have taken.
        completeness: The record of committed entries.
    """

    def __init__(self, applies: StateMachineSafety, completeness: Completeness) -> None:
        self._applies = applies
        self._completeness = completeness

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "install_snapshot":
            return
        index, offset, data = args["last_included_index"], args["offset"], args["data"]
        named, term = args["last_included_term"], self._completeness.committed_term(index)
        taken = self._applies.snapshots_at(index)
        where = f"at offset {offset} of the snapshot up to index {index}"
        # Different servers' snapshots may differ. It is up to a follower to check that all chunks that it gets belong
        # to the same snapshot.
        fitting = [whole for whole in taken if whole[offset : offset + len(data)] == data]
        if not taken:
            text = "expected a snapshot that some service has taken, but"
            text = f"{text} S{src} sends one up to index {index}, where no service took one"
        elif len(data) > CHUNK_BYTES:
            text = f"expected at most {CHUNK_BYTES} bytes in one message, but S{src} sends {len(data)} {where}"
        elif not fitting:
            text = f"expected the snapshot's own bytes, but S{src} sends others {where}"
        elif args["done"] and offset + len(data) not in map(len, fitting):
            lengths = " or ".join(map(str, sorted({len(whole) for whole in taken})))
            text = f"expected S{src} to set done only with the last of the {lengths} bytes, but it sets done {where}"
        elif term not in (None, named):
            text = f"expected S{src} to name term {term}, the term of index {index}, with the snapshot up to there,"
            text = f"{text} but it sends last_included_term={named}"
        else:
            return
        raise broken(rules.WHOLE_SNAPSHOT, text, frozenset((src, dst)))
