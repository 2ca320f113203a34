"""The promises of Raft that a failure can name: the property, the line of Figure 2, the paper's section, what to read.

Section numbers are those of the extended paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus
Algorithm"). The wording is ours.
"""

from __future__ import annotations

from raftlab.failure import Rule

_LAB_2A = "handouts/lab-2a.md"

ELECTION_SAFETY = Rule(
    "Election Safety", "at most one server leads in any one term", "§5.2", f"{_LAB_2A}#one-leader-a-term"
)
ONE_VOTE = Rule(
    "one vote a term",
    "a server gives its vote to at most one candidate in a term",
    "Figure 2, RequestVote 2; §5.2",
    f"{_LAB_2A}#who-gets-my-vote",
)
VOTE_ONLY_IF = Rule(
    "who gets a vote",
    "only a candidate of the current term whose log is at least as up-to-date as the voter's",
    "Figure 2, RequestVote 1-2; §5.4.1",
    f"{_LAB_2A}#who-gets-my-vote",
)
MAJORITY = Rule(
    "majority",
    "a candidate leads once more than half of all servers voted for it, and not before",
    "§5.2",
    f"{_LAB_2A}#counting-votes",
)
LIVENESS = Rule(
    "liveness of elections",
    "servers that can reach each other and are a majority elect a leader soon",
    "§5.2, §5.6",
    f"{_LAB_2A}#nobody-is-elected",
)
HIGHER_TERM = Rule(
    "higher term",
    "a server that sees a term above its own adopts it and becomes a follower",
    "Figure 2, All Servers; §5.1",
    f"{_LAB_2A}#terms",
)
OLD_TERM = Rule(
    "old term",
    "a message of an older term is refused and changes nothing",
    "Figure 2, AppendEntries 1, RequestVote 1; §5.1",
    f"{_LAB_2A}#terms",
)
TERMS_AGREE = Rule(
    "terms agree",
    "servers that hear the same leader are in the same term, and terms start at 1",
    "§5.1",
    f"{_LAB_2A}#terms",
)
TERMS_ONLY_GROW = Rule(
    "terms only grow", "a server's term never goes back", "Figure 2, State; §5.1", f"{_LAB_2A}#terms"
)
STABLE_LEADER = Rule(
    "stable leader",
    "while nothing fails the leader's heartbeats keep everybody from starting elections",
    "§5.2",
    f"{_LAB_2A}#elections-for-no-reason",
)
TIMER = Rule(
    "election timer",
    "only three events restart a running one: a message of the current leader, a vote given, an election begun",
    "§5.2; Figure 2, Followers",
    f"{_LAB_2A}#the-election-timer",
)
HEARTBEATS = Rule(
    "heartbeats",
    "a leader sends them steadily, and not more than about ten a second to each server",
    "§5.2; lab limits",
    f"{_LAB_2A}#heartbeats",
)
STATE_MACHINE_SAFETY = Rule(
    "State Machine Safety",
    "no two servers apply different commands at the same index",
    "§5.4.3",
    "handouts/lab-2b.md",
)
APPLY_IN_ORDER = Rule(
    "apply in order",
    "every server applies index 1, 2, 3, ... without a gap",
    "Figure 2, All Servers; §5.3",
    "handouts/lab-2b.md",
)
AGREEMENT = Rule(
    "agreement",
    "a command given to a leader that reaches a majority is soon applied",
    "§5.3",
    "handouts/lab-2b.md",
)
