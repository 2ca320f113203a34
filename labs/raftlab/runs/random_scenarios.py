"""Schedules that nobody thought of: random commands for a cluster, with the referee watching.

A lab and a seed make a scenario: proposals, cuts of servers, links and single directions, loss, repetition and reordering,
messages kept back, pauses and clocks that run fast or slow; from lab 2C on crashes (also between two effects of one step)
and saves that fail; from 2D on snapshots. At the end everything is mended, and then the cluster must elect a leader and
(from 2B on) apply one more command everywhere: safety is judged at every event, liveness at the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from raftlab import labs
from raftlab.runs.scenario import Scenario, Step
from raftlab.seeds import derive

# The name of a fuzz run: "fuzz_2C".
PREFIX = "fuzz_"
_NAMES = "abcdefgh"

Deed = Callable[["_Generator"], None]


def name_of(lab: str) -> str:
    return f"{PREFIX}{lab}"


def generate(lab: str, seed: int) -> Scenario:
    """The scenario of ``lab`` (``"2A"`` to ``"2D"`` and on) that ``seed`` stands for."""
    return _Generator(lab, random.Random(derive(seed, "fuzz", lab))).scenario(seed)


class _Generator:
    def __init__(self, lab: str, rng: random.Random) -> None:
        self._lab = lab
        self._has = labs.find(lab).has
        self._rng = rng
        self._servers = rng.choice((3, 3, 3, 4, 5, 5, 5, 6, 7))
        self._steps: list[Step] = []
        self._leader = ""  # the name that was given last; the first command gives one
        self._named = 0
        self._holds: list[str] = []
        self._held = 0
        self._down: list[str] = []
        self._off: list[str] = []
        self._paused: list[str] = []

    def scenario(self, seed: int) -> Scenario:
        rng = self._rng
        members = 0
        if self._has("membership"):
            # Some run on, unknown to the others, until somebody lets them in.
            members = rng.choice((0, rng.randint(1, self._servers)))
        if self._has("snapshots"):
            self._say("snapshots", rng.choice((3, 5, 10)), rng.choice((0, 0, 500, 10_000)))
        self._name("leader")
        if rng.random() < 0.5:
            self._unreliable()
        # Each run has its own mix, so that some are all about crashes and some have none.
        deeds = {deed: rng.choice((0, 1, 1, 2, 4)) * weight for deed, weight in self._deeds().items()}
        deeds[_Generator._find] = 6
        if self._has("log"):
            deeds[_Generator._propose] = 8
        for _ in range(rng.randint(8, 30)):
            (deed,) = rng.choices(list(deeds), list(deeds.values()))
            deed(self)
            # Things go wrong together, or one long after the other.
            if rng.random() < 0.7:
                self._wait(rng.choice((0.01, 0.05, 0.2, 0.6, 1.5)))
        self._say("check")
        return Scenario(self._lab, name_of(self._lab), seed, self._servers, tuple(self._steps), members=members)

    def _deeds(self) -> dict[Deed, float]:
        kinds = _Generator
        found: dict[Deed, float] = {
            kinds._disconnect: 2, kinds._connect: 3, kinds._cut: 2, kinds._partition: 2, kinds._heal: 2, kinds._hold: 3,
            kinds._let_go: 3, kinds._pause: 1, kinds._resume: 2, kinds._clock: 0.5, kinds._unreliable: 1,
            kinds._reliable: 1,
        }  # fmt: skip
        if self._has("log"):
            found |= {kinds._slow: 0.5, kinds._left_behind: 1, kinds._left_alone: 1}
        if self._has("durable"):
            found |= {kinds._crash: 3, kinds._restart: 4, kinds._crash_at: 2, kinds._fail_saves: 0.5}
            found[kinds._restarts_in_an_election] = 1
        if self._has("membership"):
            found[kinds._members] = 3
        return found

    def _say(self, command: str, *words: object) -> None:
        self._steps.append(Step(command, " ".join(str(word) for word in words if word != "")))

    # --- servers ---

    def _find(self) -> None:
        self._name("find")

    def _name(self, command: str) -> None:
        self._leader = _NAMES[self._named % len(_NAMES)]
        self._named += 1
        self._say(command, self._leader)

    def _any(self) -> str:
        """The leader, or one of the others: named by how far behind it they sit."""
        return self._behind(0 if self._rng.random() < 0.4 else self._rng.randrange(self._servers))

    def _behind(self, places: int) -> str:
        """Who sits so many places behind the leader."""
        return f"{self._leader}+{places}" if places else self._leader

    def _one_of(self, servers: list[str]) -> str:
        """One that something was done to, to be undone; else any."""
        return servers.pop(self._rng.randrange(len(servers))) if servers else self._any()

    # --- deeds ---

    def _propose(self) -> None:
        count = self._rng.choice((1, 1, 1, 2, 3, 8))
        server = self._leader if self._rng.random() < 0.8 else self._any()
        self._say("propose", server, count if count > 1 else "")

    def _members(self) -> None:
        """Somebody, most likely the leader, is asked for other members: of all servers some."""
        chosen = self._rng.sample(range(self._servers), self._rng.randint(1, self._servers))
        server = self._leader if self._rng.random() < 0.8 else self._any()
        self._say("members", server, "to", *map(self._behind, chosen))

    def _disconnect(self) -> None:
        self._off.append(self._any())
        self._say("disconnect", self._off[-1])

    def _connect(self) -> None:
        self._say("connect", self._one_of(self._off))

    def _cut(self) -> None:
        src, dst = self._any(), self._any()
        if src != dst:
            self._say("cut", src, dst)
            if self._rng.random() < 0.4:
                self._say("cut", dst, src)

    def _partition(self) -> None:
        order = list(range(self._servers))
        self._rng.shuffle(order)
        groups = self._rng.choice((2, 2, 3))
        cuts = sorted(self._rng.sample(range(1, self._servers), min(groups, self._servers) - 1))
        names = list(map(self._behind, order))
        parts = [names[start:end] for start, end in zip([0, *cuts], [*cuts, len(names)], strict=True)]
        self._say("partition", " | ".join(" ".join(part) for part in parts))

    def _heal(self) -> None:
        self._off.clear()
        self._say("heal")

    def _unreliable(self) -> None:
        rng = self._rng
        self._say(
            "unreliable",
            f"lose_request={rng.choice((0.0, 0.1, 0.3))}",
            f"lose_reply={rng.choice((0.0, 0.1, 0.3))}",
            f"duplicate={rng.choice((0.0, 0.1, 0.3))}",
            f"echo={rng.choice((0.05, 0.05, 1.0))}",
            f"reorder_reply={rng.choice((0.0, 0.0, 0.3))}",
        )

    def _reliable(self) -> None:
        self._say("reliable")

    def _hold(self) -> None:
        rng = self._rng
        methods = ["request_vote", "append_entries", "append_entries"]
        if self._has("snapshots"):
            methods += ["install_snapshot", "install_snapshot"]
        if self._has("pre_vote"):
            methods.append("pre_vote")
        method = rng.choice(methods)
        words = [rng.choice(("requests", "replies")), "of", method]
        if rng.random() < 0.5:
            words += ["from", self._any()]
        if rng.random() < 0.5:
            words += ["to", self._any()]
        if method == "append_entries" and rng.random() < 0.7:
            words += ["carrying", "entries"]
        if method == "install_snapshot" and rng.random() < 0.5:
            words += ["carrying", rng.choice(("later-chunk", "last-chunk"))]
        words += ["most", str(rng.choice((1, 1, 2, 5)))]
        self._keep(*words)

    def _keep(self, *words: str) -> None:
        self._held += 1
        self._holds.append(f"h{self._held}")
        self._say("hold", self._holds[-1], *words)

    def _let_go(self) -> None:
        if self._holds:
            hold = self._holds.pop(self._rng.randrange(len(self._holds)))
            self._say("release" if self._rng.random() < 0.8 else "drop", hold)

    def _pause(self) -> None:
        self._paused.append(self._any())
        self._say("pause", self._paused[-1])

    def _resume(self) -> None:
        if self._paused:
            self._say("resume", self._one_of(self._paused))

    def _clock(self) -> None:
        self._say("clock", self._any(), self._rng.choice((0.5, 0.8, 1.25, 2.0)))

    def _left_behind(self) -> None:
        """One is away while the others go on; what it gets when it is back is kept for a while."""
        away = self._behind(self._rng.randrange(1, self._servers))
        self._say("disconnect", away)
        self._say("propose", self._leader, self._rng.choice((3, 12, 30)))
        self._wait(0.3)
        method = self._rng.choice(
            ("append_entries", "install_snapshot") if self._has("snapshots") else ("append_entries",)
        )
        if self._rng.random() < 0.7:
            self._keep(self._rng.choice(("requests", "replies")), "of", method, "to", away, "most", "1")
        self._say("connect", away)
        self._wait(self._rng.choice((0.2, 1.0)))
        if self._rng.random() < 0.5:
            self._say("disconnect", self._leader)
            self._off.append(self._leader)
            self._wait(1.2)
            self._find()
        self._say("propose", self._leader, self._rng.choice((1, 12, 30)))
        self._wait(0.3)
        self._let_go()

    def _left_alone(self) -> None:
        """A leader's commands reach nobody, and it goes down or away; it is back when others have led."""
        self._find()
        old = self._leader
        self._keep("requests", "of", "append_entries", "from", old, "carrying", "entries")
        self._say("propose", old, self._rng.choice((1, 2, 5)))
        self._wait(0.1)
        gone, back = (
            ("crash", "restart") if self._has("durable") and self._rng.random() < 0.5 else ("disconnect", "connect")
        )
        self._say(gone, old)
        if self._rng.random() < 0.5:
            self._say("drop", self._holds.pop())
        self._wait(1.0)
        self._find()
        if self._rng.random() < 0.7:
            self._say("propose", self._leader)
            self._wait(0.2)
        if self._rng.random() < 0.5:
            self._say("disconnect", self._leader)
            self._off.append(self._leader)
        self._say(back, old)
        self._wait(1.0)

    def _restarts_in_an_election(self) -> None:
        """The leader goes away, and while the others vote some of them restart."""
        self._find()
        self._say("disconnect", self._leader)
        self._off.append(self._leader)
        for _ in range(self._rng.randint(1, 3)):
            self._wait(0.3)
            self._say("restart", self._behind(self._rng.randrange(1, self._servers)))
        self._wait(0.3)

    def _wait(self, about: float) -> None:
        self._say("wait", f"{about * self._rng.uniform(0.5, 1.5):.3f}")

    def _slow(self) -> None:
        self._say("slow-service", self._any(), self._rng.choice((0.01, 0.1)))

    def _crash(self) -> None:
        self._down.append(self._any())
        self._say("crash", self._down[-1])

    def _restart(self) -> None:
        self._say("restart", self._one_of(self._down))

    def _crash_at(self) -> None:
        rng = self._rng
        kind = rng.choice(("save", "send", "answer", "apply"))
        server = self._any()
        self._say("crash-at", server, rng.choice(("before", "after")), kind, rng.choice((1, 1, 2, 5)))
        self._down.append(server)

    def _fail_saves(self) -> None:
        self._say("fail-saves", self._any(), self._rng.choice((1, 2, 5)))
