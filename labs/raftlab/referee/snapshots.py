"""Snapshots on the wire: a leader sends what a service has taken, under its own index and term, in chunks (§7, Figure 13).

Seen from outside in InstallSnapshot: the index is one at which a service took a snapshot, the data are that snapshot's
bytes at the offset, and done comes with the last of them.

Styles it must accept: chunks of any size up to the lab's limit, in any order, repeated, begun again from the start.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.applied import Applied
from raftlab.referee.base import Invariant, Message, broken

# The lab's limit: the most bytes of a snapshot in one message.
CHUNK_BYTES = 4096


class Snapshots(Invariant):
    def __init__(self, applies: Applied) -> None:
        self._applies = applies

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "install_snapshot":
            return
        index, offset, data = args["last_included_index"], args["offset"], args["data"]
        whole = self._applies.snapshots.get(index)
        where = f"at offset {offset} of the snapshot up to index {index}"
        if whole is None:
            said = f"S{src} sends one up to index {index}, where none has"
            said = f"expected a snapshot that some service has taken, but {said}"
        elif len(data) > CHUNK_BYTES:
            said = f"expected at most {CHUNK_BYTES} bytes in one message, but S{src} sends {len(data)} {where}"
        elif whole[offset : offset + len(data)] != data:
            said = f"expected the snapshot's own bytes, but S{src} sends others {where}"
        elif args["done"] and offset + len(data) != len(whole):
            said = f"expected done with the last of {len(whole)} bytes, but S{src} says it {where}"
        else:
            return
        raise broken(rules.WHOLE_SNAPSHOT, said, frozenset((src, dst)))
