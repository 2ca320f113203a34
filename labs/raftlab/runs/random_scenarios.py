"""Random scenarios, for `raftlab fuzz` and hidden tests: a lab and a seed make a list of random commands.

A scenario has proposals and faults: it cuts off servers, links and single directions of links; loses, duplicates,
reorders and holds messages; pauses servers; and makes clocks run fast or slow. Durable servers also crash (even between
two effects of one step) and fail to save. At the end every fault is undone, and the cluster must elect a leader and, if
it has a log, apply one more command everywhere. So the referee judges safety at every event, and the last command tests
liveness.

With a service (lab 3A), clerks replace the proposals: they carry out operations, crash, and lose their links to some
servers. At the end every operation must return, and the history must be linearizable. In lab 3B the clerks use every
kind of read. The rates of clocks then differ by less than the factor MAX_DRIFT, because leases rely on that.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from raftlab import labs
from raftlab.harness.clerks import READS
from raftlab.runs import scenario_commands as commands
from raftlab.runs.scenario import Scenario
from raftlab.runs.scenario_commands import Command
from raftlab.seeds import derive

# The name of a random scenario of lab 2C is fuzz_2C.
PREFIX = "fuzz_"
_NAMES = "abcdefgh"
# The maximum number of operations that the clerks of one scenario carry out.
_OPERATIONS = 300
# Pairs of clock rates. A scenario with leases draws one pair. The two rates and 1 differ from each other by less than
# the factor MAX_DRIFT.
_RATES = ((0.82, 1.0), (0.9, 1.1), (1.0, 1.22))

Action = Callable[["_Generator"], None]
"""Adds one command, or a few that belong together."""


def name_of(lab: str) -> str:
    return f"{PREFIX}{lab}"


def generate(lab: str, seed: int) -> Scenario:
    """The random scenario of a lab for ``seed``, given the lab's name. The same arguments always give the same
    scenario."""
    return _Generator(lab, random.Random(derive(seed, "fuzz", lab))).scenario(seed)


class _Generator:
    def __init__(self, lab: str, rng: random.Random) -> None:
        self._lab = lab
        self._has = labs.find(lab).has
        self._rng = rng
        self._servers = rng.choice((3, 3, 3, 4, 5, 5, 5, 6, 7))
        self._commands: list[Command] = []
        self._leader = ""  # the name of the latest leader; an early command sets it
        self._named = 0
        self._holds: list[str] = []
        self._held = 0
        self._down: list[str] = []
        self._off: list[str] = []
        self._paused: list[str] = []
        self._clerks = 0
        if self._has("service"):
            self._clerks = rng.choice((2, 2, 3, 5) if self._has("reads") else (1, 2, 3, 5))
        self._operations = 0
        self._rates = rng.choice(_RATES) if self._has("reads") else (0.5, 0.8, 1.25, 2.0)

    def scenario(self, seed: int) -> Scenario:
        rng = self._rng
        members = 0
        if self._has("membership"):
            # The other servers run, but the members do not know them until they are added.
            members = rng.choice((0, rng.randint(1, self._servers)))
        if self._has("snapshots") and not self._clerks:
            self._add(commands.Snapshots(str(rng.choice((3, 5, 10))), str(rng.choice((0, 0, 500, 10_000)))))
        self._name(commands.Leader)
        if self._has("reads") and rng.random() < 0.5:
            for server in range(self._servers):
                self._add(commands.Clock(self._behind(server), str(rng.choice(self._rates))))
        if rng.random() < 0.5:
            self._unreliable()
        # Each scenario has its own mix: some are mostly about crashes, and some have none.
        weights = {action: rng.choice((0, 1, 1, 2, 4)) * weight for action, weight in self._actions().items()}
        weights[_Generator._find] = 6
        if self._has("log"):
            weights[_Generator._propose] = 8
        if self._clerks:
            weights[_Generator._operate] = 4
        for _ in range(rng.randint(8, 30)):
            (action,) = rng.choices(list(weights), list(weights.values()))
            action(self)
            # Faults follow each other quickly in some scenarios, slowly in others.
            if rng.random() < 0.7:
                self._wait(rng.choice((0.01, 0.05, 0.2, 0.6, 1.5)))
        self._add(commands.Check())
        return Scenario(
            self._lab, name_of(self._lab), seed, self._servers, tuple(self._commands), members=members,
            clerks=self._clerks, max_state=rng.choice((0, 1000, 3000, 8000)) if self._clerks else 0,
        )  # fmt: skip

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
        if self._has("transfer"):
            found |= {kinds._transfer: 5, kinds._transfer_late: 2}
        if self._clerks:
            found |= {kinds._cut_off_clerk: 2, kinds._restart_clerk: 1, kinds._hold_requests: 2}
        if self._has("reads"):
            found[kinds._old_leader] = 5
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
        """The leader or another server."""
        return self._behind(0 if self._rng.random() < 0.4 else self._rng.randrange(self._servers))

    def _behind(self, places: int) -> str:
        """The name of the server that is this many places after the leader."""
        return f"{self._leader}+{places}" if places else self._leader

    def _one_of(self, servers: list[str]) -> str:
        """Choose one of ``servers`` and remove it from the list; any server if the list is empty."""
        return servers.pop(self._rng.randrange(len(servers))) if servers else self._any()

    # --- actions ---

    def _propose(self) -> None:
        count = self._rng.choice((1, 1, 1, 2, 3, 8))
        if self._clerks:
            self._load(count)
            return
        server = self._leader if self._rng.random() < 0.8 else self._any()
        self._add(commands.Propose(server, str(count) if count > 1 else ""))

    def _propose_to(self, server: str, count: int) -> None:
        """Propose ``count`` commands or, if there are clerks, let some carry out ``count`` operations each."""
        if self._clerks:
            self._load(count)
        else:
            self._add(commands.Propose(server, str(count)))

    def _load(self, count: int) -> None:
        """Let some clerks carry out ``count`` operations each. The history stays short enough to be judged."""
        chosen = sorted(self._rng.sample(range(self._clerks), self._rng.randint(1, self._clerks)))
        self._operations += count * len(chosen)
        if self._operations > _OPERATIONS:
            return
        names = " ".join(f"C{number}" for number in chosen)
        mix = self._rng.choice(self._mixes())
        keys = self._rng.choice(("a b", "c d", "e", "f"))
        self._add(commands.Load(names, str(count), mix, str(self._rng.randrange(1000)), keys))

    def _mixes(self) -> tuple[str, ...]:
        plain = ("appends", "everything")
        return ("reads", "fresh-reads", "fresh-reads", "everything-and-reads", *plain) if self._has("reads") else plain

    def _operate(self) -> None:
        """Let a clerk begin one operation."""
        op = self._rng.choice(commands.OPERATIONS)
        read = ""
        if self._has("reads") and self._rng.random() < 0.5:
            op, read = "get", self._rng.choice(READS)
        self._operations += 1
        value = f"x{self._operations};"
        # If an operation has two values, the first is the expected one. A single value is the one to write.
        first, second = {"get": ("", ""), "swap": (self._rng.choice((commands.NO_VALUE, "x1;")), value)}.get(
            op, (value, "")
        )
        self._add(commands.Op(self._any_clerk(), op, self._rng.choice("abcdef"), first, second, read))

    def _any_clerk(self) -> str:
        return f"C{self._rng.randrange(self._clerks)}"

    def _cut_off_clerk(self) -> None:
        """Cut one or both directions of the link between a clerk and a server, most likely the leader."""
        clerk, server = self._any_clerk(), self._any()
        ways = self._rng.choice(((clerk, server), (server, clerk), None))
        for src, dst in ((clerk, server), (server, clerk)) if ways is None else (ways,):
            self._add(commands.Cut(src, dst))

    def _restart_clerk(self) -> None:
        self._add(commands.Restart(self._any_clerk()))

    def _hold_requests(self) -> None:
        """Hold a client's request or its reply, so that the message may arrive much later than the retry."""
        leg = self._rng.choice(("requests", "replies"))
        self._add(commands.Hold(self._new_hold(), leg, "client_request", most=str(self._rng.choice((1, 1, 2)))))

    def _old_leader(self) -> None:
        """Cut the leader and one clerk off from the rest. That clerk reads, and another clerk writes to the new
        leader."""
        rng = self._rng
        self._find()
        reader, writer = (f"C{number}" for number in rng.sample(range(self._clerks), 2))
        others = [self._behind(places) for places in range(1, self._servers)]
        key, read = rng.choice("gh"), rng.choice(("index", "lease"))

        def both() -> None:
            self._operations += 2
            self._add(commands.Op(reader, "get", key, read=read))
            self._add(commands.Op(writer, "append", key, f"x{self._operations};"))
            self._wait(0.1)

        both()
        self._partition_into([self._leader, reader], [*others, writer])
        # Operate often: a leader that gets no replies may step down soon after another leader is elected.
        for _ in range(rng.randint(6, 12)):
            both()
        if rng.random() < 0.7:
            self._heal()

    def _members(self) -> None:
        """Ask a server, most likely the leader, to change the members to a random choice of all servers."""
        chosen = self._rng.sample(range(self._servers), self._rng.randint(1, self._servers))
        server = self._leader if self._rng.random() < 0.8 else self._any()
        self._add(commands.Members(server, " ".join(map(self._behind, chosen))))

    def _transfer(self) -> None:
        """Ask a server, most likely the leader, to transfer leadership. Sometimes the target lacks entries, or a server
        crashes."""
        rng = self._rng
        server = self._leader if rng.random() < 0.9 else self._any()
        target = self._behind(rng.randrange(self._servers))
        if rng.random() < 0.5:
            self._add(commands.Propose(self._leader, str(rng.choice((2, 8)))))
        self._add(commands.Transfer(server, target))
        if rng.random() < 0.2:
            self._wait(0.002)
            self._add(commands.Crash(rng.choice((server, target))))
            self._down.append(server)
        if rng.random() < 0.6:
            self._wait(0.05)
            self._find()
            self._add(commands.Propose(self._leader))

    def _transfer_late(self) -> None:
        """Deliver TimeoutNow, or the RequestVote that follows it, late: after more commands or another transfer."""
        rng = self._rng
        self._find()
        method = rng.choice(("timeout_now", "timeout_now", "request_vote"))
        self._add(commands.Hold(self._new_hold(), rng.choice(("requests", "replies")), method, most="2"))
        held = self._holds[-1]
        self._add(commands.Transfer(self._leader, self._behind(rng.randrange(1, self._servers))))
        self._wait(rng.choice((0.05, 1.2)))
        self._add(commands.Propose(self._leader, str(rng.choice((1, 3)))))
        if rng.random() < 0.5:
            self._add(commands.Transfer(self._leader, self._behind(rng.randrange(1, self._servers))))
            self._wait(0.1)
        self._holds.remove(held)
        self._add(commands.Release(held))

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
        self._partition_into(*parts)

    def _partition_into(self, *parts: list[str]) -> None:
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
        if self._has("transfer"):
            methods.append("timeout_now")
        if self._has("reads"):
            methods.append("read_index_of")
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
        self._add(commands.Clock(self._any(), str(self._rng.choice(self._rates))))

    def _left_behind(self) -> None:
        """Disconnect a server while the others commit. Messages to it may be held for a while after its return."""
        away = self._behind(self._rng.randrange(1, self._servers))
        self._add(commands.Disconnect(away))
        self._propose_to(self._leader, self._rng.choice((3, 12, 30)))
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
        self._propose_to(self._leader, self._rng.choice((1, 12, 30)))
        self._wait(0.3)
        self._let_go()

    def _left_alone(self) -> None:
        """Keep a leader's commands from reaching any server, then crash the leader or cut it off. Before the leader
        returns, another server may lead."""
        self._find()
        old = self._leader
        self._add(commands.Hold(self._new_hold(), "requests", "append_entries", src=old, filter="entries"))
        self._propose_to(old, self._rng.choice((1, 2, 5)))
        self._wait(0.1)
        crash = self._has("durable") and self._rng.random() < 0.5
        self._add(commands.Crash(old) if crash else commands.Disconnect(old))
        if self._rng.random() < 0.5:
            self._add(commands.Drop(self._holds.pop()))
        self._wait(1.0)
        self._find()
        if self._rng.random() < 0.7:
            self._propose_to(self._leader, 1)
            self._wait(0.2)
        if self._rng.random() < 0.5:
            self._add(commands.Disconnect(self._leader))
            self._off.append(self._leader)
        self._add(commands.Restart(old) if crash else commands.Connect(old))
        self._wait(1.0)

    def _restarts_in_an_election(self) -> None:
        """Cut the leader off, and restart some of the other servers during the election."""
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
