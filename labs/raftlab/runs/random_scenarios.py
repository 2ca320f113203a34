"""Random scenarios, for `raftlab fuzz` and hidden tests: a lab and a seed make a list of random commands.

There are proposals, cuts of servers, links and single directions, loss, duplication and reordering of messages, messages
that are held, pauses, and clocks that run fast or slow; servers that are durable also crash (even between two effects of
one step) and fail to save. At the end every fault is undone, and the cluster must elect a leader and, if it has a log,
apply one more command everywhere: the referee judges safety at every event, the last command liveness.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from raftlab import labs
from raftlab.runs import scenario_commands as commands
from raftlab.runs.scenario import Scenario
from raftlab.runs.scenario_commands import Command
from raftlab.seeds import derive

# The name of a random scenario of lab 2C is fuzz_2C.
PREFIX = "fuzz_"
_NAMES = "abcdefgh"

Action = Callable[["_Generator"], None]
"""Adds one command or a few that belong together."""


def name_of(lab: str) -> str:
    return f"{PREFIX}{lab}"


def generate(lab: str, seed: int) -> Scenario:
    """The random scenario of a lab, by the lab's name, that belongs to ``seed``. Always the same for the same arguments."""
    return _Generator(lab, random.Random(derive(seed, "fuzz", lab))).scenario(seed)


class _Generator:
    def __init__(self, lab: str, rng: random.Random) -> None:
        self._lab = lab
        self._has = labs.find(lab).has
        self._rng = rng
        self._servers = rng.choice((3, 3, 3, 4, 5, 5, 5, 6, 7))
        self._commands: list[Command] = []
        self._leader = ""  # the latest leader's name; one of the first commands gives it one
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
            # The other servers run, but are unknown to the members until they are added.
            members = rng.choice((0, rng.randint(1, self._servers)))
        if self._has("snapshots"):
            self._add(commands.Snapshots(str(rng.choice((3, 5, 10))), str(rng.choice((0, 0, 500, 10_000)))))
        self._name(commands.Leader)
        if rng.random() < 0.5:
            self._unreliable()
        # Each scenario has its own mix, so that some are mostly about crashes and some have none.
        weights = {action: rng.choice((0, 1, 1, 2, 4)) * weight for action, weight in self._actions().items()}
        weights[_Generator._find] = 6
        if self._has("log"):
            weights[_Generator._propose] = 8
        for _ in range(rng.randint(8, 30)):
            (action,) = rng.choices(list(weights), list(weights.values()))
            action(self)
            # Faults come together, or one long after the other.
            if rng.random() < 0.7:
                self._wait(rng.choice((0.01, 0.05, 0.2, 0.6, 1.5)))
        self._add(commands.Check())
        return Scenario(self._lab, name_of(self._lab), seed, self._servers, tuple(self._commands), members=members)

    def _actions(self) -> dict[Action, float]:
        kinds = _Generator
        found: dict[Action, float] = {
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

    def _add(self, command: Command) -> None:
        self._commands.append(command)

    # --- servers ---

    def _find(self) -> None:
        self._name(commands.Find)

    def _name(self, command: type[commands.Leader | commands.Find]) -> None:
        self._leader = _NAMES[self._named % len(_NAMES)]
        self._named += 1
        self._add(command(self._leader))

    def _any(self) -> str:
        """The leader, or one of the others."""
        return self._behind(0 if self._rng.random() < 0.4 else self._rng.randrange(self._servers))

    def _behind(self, places: int) -> str:
        """What a server is called that is so many places after the leader."""
        return f"{self._leader}+{places}" if places else self._leader

    def _one_of(self, servers: list[str]) -> str:
        """One of ``servers``, which it is then removed from; any server if the list is empty."""
        return servers.pop(self._rng.randrange(len(servers))) if servers else self._any()

    # --- actions ---

    def _propose(self) -> None:
        count = self._rng.choice((1, 1, 1, 2, 3, 8))
        server = self._leader if self._rng.random() < 0.8 else self._any()
        self._add(commands.Propose(server, str(count) if count > 1 else ""))

    def _members(self) -> None:
        """Ask a server, most likely the leader, to change the members to a random choice of all servers."""
        chosen = self._rng.sample(range(self._servers), self._rng.randint(1, self._servers))
        server = self._leader if self._rng.random() < 0.8 else self._any()
        self._add(commands.Members(server, " ".join(map(self._behind, chosen))))

    def _disconnect(self) -> None:
        self._off.append(self._any())
        self._add(commands.Disconnect(self._off[-1]))

    def _connect(self) -> None:
        self._add(commands.Connect(self._one_of(self._off)))

    def _cut(self) -> None:
        src, dst = self._any(), self._any()
        if src != dst:
            self._add(commands.Cut(src, dst))
            if self._rng.random() < 0.4:
                self._add(commands.Cut(dst, src))

    def _partition(self) -> None:
        order = list(range(self._servers))
        self._rng.shuffle(order)
        groups = self._rng.choice((2, 2, 3))
        cuts = sorted(self._rng.sample(range(1, self._servers), min(groups, self._servers) - 1))
        names = list(map(self._behind, order))
        parts = [names[start:end] for start, end in zip([0, *cuts], [*cuts, len(names)], strict=True)]
        self._add(commands.Partition(" | ".join(" ".join(part) for part in parts)))

    def _heal(self) -> None:
        self._off.clear()
        self._add(commands.Heal())

    def _unreliable(self) -> None:
        rng = self._rng
        conditions = (
            f"lose_request={rng.choice((0.0, 0.1, 0.3))}",
            f"lose_reply={rng.choice((0.0, 0.1, 0.3))}",
            f"duplicate={rng.choice((0.0, 0.1, 0.3))}",
            f"echo={rng.choice((0.05, 0.05, 1.0))}",
            f"reorder_reply={rng.choice((0.0, 0.0, 0.3))}",
        )
        self._add(commands.Unreliable(" ".join(conditions)))

    def _reliable(self) -> None:
        self._add(commands.Reliable())

    def _hold(self) -> None:
        rng = self._rng
        methods = ["request_vote", "append_entries", "append_entries"]
        if self._has("snapshots"):
            methods += ["install_snapshot", "install_snapshot"]
        if self._has("pre_vote"):
            methods.append("pre_vote")
        method = rng.choice(methods)
        leg = rng.choice(("requests", "replies"))
        src = self._any() if rng.random() < 0.5 else ""
        dst = self._any() if rng.random() < 0.5 else ""
        chosen = ""
        if method == "append_entries" and rng.random() < 0.7:
            chosen = "entries"
        if method == "install_snapshot" and rng.random() < 0.5:
            chosen = rng.choice(("later-chunk", "last-chunk"))
        most = str(rng.choice((1, 1, 2, 5)))
        self._add(commands.Hold(self._new_hold(), leg, method, src, dst, chosen, most))

    def _new_hold(self) -> str:
        self._held += 1
        self._holds.append(f"h{self._held}")
        return self._holds[-1]

    def _let_go(self) -> None:
        if self._holds:
            hold = self._holds.pop(self._rng.randrange(len(self._holds)))
            self._add(commands.Release(hold) if self._rng.random() < 0.8 else commands.Drop(hold))

    def _pause(self) -> None:
        self._paused.append(self._any())
        self._add(commands.Pause(self._paused[-1]))

    def _resume(self) -> None:
        if self._paused:
            self._add(commands.Resume(self._one_of(self._paused)))

    def _clock(self) -> None:
        self._add(commands.Clock(self._any(), str(self._rng.choice((0.5, 0.8, 1.25, 2.0)))))

    def _left_behind(self) -> None:
        """A server is away while the others commit; what it gets after its return may be held for a while."""
        away = self._behind(self._rng.randrange(1, self._servers))
        self._add(commands.Disconnect(away))
        self._add(commands.Propose(self._leader, str(self._rng.choice((3, 12, 30)))))
        self._wait(0.3)
        method = self._rng.choice(
            ("append_entries", "install_snapshot") if self._has("snapshots") else ("append_entries",)
        )
        if self._rng.random() < 0.7:
            leg = self._rng.choice(("requests", "replies"))
            self._add(commands.Hold(self._new_hold(), leg, method, dst=away, most="1"))
        self._add(commands.Connect(away))
        self._wait(self._rng.choice((0.2, 1.0)))
        if self._rng.random() < 0.5:
            self._add(commands.Disconnect(self._leader))
            self._off.append(self._leader)
            self._wait(1.2)
            self._find()
        self._add(commands.Propose(self._leader, str(self._rng.choice((1, 12, 30)))))
        self._wait(0.3)
        self._let_go()

    def _left_alone(self) -> None:
        """A leader's commands reach nobody, and it crashes or is cut off; it comes back after others have led."""
        self._find()
        old = self._leader
        self._add(commands.Hold(self._new_hold(), "requests", "append_entries", src=old, filter="entries"))
        self._add(commands.Propose(old, str(self._rng.choice((1, 2, 5)))))
        self._wait(0.1)
        crash = self._has("durable") and self._rng.random() < 0.5
        self._add(commands.Crash(old) if crash else commands.Disconnect(old))
        if self._rng.random() < 0.5:
            self._add(commands.Drop(self._holds.pop()))
        self._wait(1.0)
        self._find()
        if self._rng.random() < 0.7:
            self._add(commands.Propose(self._leader))
            self._wait(0.2)
        if self._rng.random() < 0.5:
            self._add(commands.Disconnect(self._leader))
            self._off.append(self._leader)
        self._add(commands.Restart(old) if crash else commands.Connect(old))
        self._wait(1.0)

    def _restarts_in_an_election(self) -> None:
        """The leader is cut off, and some of the others restart during the election."""
        self._find()
        self._add(commands.Disconnect(self._leader))
        self._off.append(self._leader)
        for _ in range(self._rng.randint(1, 3)):
            self._wait(0.3)
            self._add(commands.Restart(self._behind(self._rng.randrange(1, self._servers))))
        self._wait(0.3)

    def _wait(self, about: float) -> None:
        self._add(commands.Wait(f"{about * self._rng.uniform(0.5, 1.5):.3f}"))

    def _slow(self) -> None:
        self._add(commands.SlowService(self._any(), str(self._rng.choice((0.01, 0.1)))))

    def _crash(self) -> None:
        self._down.append(self._any())
        self._add(commands.Crash(self._down[-1]))

    def _restart(self) -> None:
        self._add(commands.Restart(self._one_of(self._down)))

    def _crash_at(self) -> None:
        rng = self._rng
        kind = rng.choice(("save", "send", "answer", "apply"))
        server = self._any()
        side = rng.choice(("before", "after"))
        self._add(commands.CrashAt(server, side, kind, str(rng.choice((1, 1, 2, 5)))))
        self._down.append(server)

    def _fail_saves(self) -> None:
        self._add(commands.FailSaves(self._any(), str(self._rng.choice((1, 2, 5)))))
