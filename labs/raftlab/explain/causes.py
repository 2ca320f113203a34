"""The explanation of each failure: for a rule, the line of Figure 2 and the usual causes; for a fault, a hint.

``RULES`` has an entry for every rule in :mod:`raftlab.explain.rules`. Figure 2 is quoted in our own words; the causes are
bugs that real Rafts have had, written by students and by companies. ``FAULTS`` has mistakes that have nothing to do with
Raft, such as a deadlock. They are reported by the host that runs the code, or by the judge that watches the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from raftlab.explain import rules
from raftlab.explain.failure import Rule


@dataclass(frozen=True, slots=True)
class Entry:
    """The explanation of a broken rule.

    Attributes:
        figure: the line of Figure 2 or 13, or the section, and what it says.
        often: the usual causes, the most common first; at most three.
    """

    figure: str
    often: tuple[str, ...] = ()


RULES: dict[Rule, Entry] = {
    rules.ELECTION_SAFETY: Entry(
        "Candidates, 2: a majority of the votes of this term makes a leader",
        (
            "a vote requested in an older term is counted: compare the terms after call() returns",
            "a server votes twice in a term: see its two answers below",
        ),
    ),
    rules.ONE_VOTE: Entry(
        "RequestVote, receiver, 2: grant if voted_for is nobody or this candidate",
        (
            "voted_for is cleared although no new term begins (on a heartbeat, after a lost election)",
            "voted_for is checked and set in two steps, and the lock is released in between",
        ),
    ),
    rules.VOTE_ONLY_IF: Entry(
        "RequestVote, receiver, 1 and 2: not for an older term, and only for a log at least as up-to-date as mine",
        (
            "a vote too few: voted_for is not cleared when a newer term begins",
            "a vote too many: the terms are not compared, or voted_for is not checked",
            "the logs are compared only by their lengths",
        ),
    ),
    rules.MAJORITY: Entry(
        "Candidates, 2: leader upon votes of a majority of all servers",
        (
            "the majority is computed from the servers that answered, not from all: len(peers) // 2 + 1",
            "a server's vote is counted twice: keep the voters in a set",
            "the candidate does not count its own vote",
        ),
    ),
    rules.LIVENESS: Entry(
        "Followers, 2: an election timeout without a leader's message or a vote granted: become a candidate",
        (
            "votes are requested one after another, and a server that is down delays the rest: use a thread for each",
            "the timer of a candidate, or of a leader that stepped down, is never started again",
            "every vote is refused: compare the logs by their last terms first, then by their lengths",
        ),
    ),
    rules.HIGHER_TERM: Entry(
        "All Servers, 2: a term above mine, in a request or in a reply, becomes my term, and I am a follower",
        (
            "the term of a reply is ignored, or checked only if the reply says yes",
            "the role changes, but the term does not",
        ),
    ),
    rules.OLD_TERM: Entry(
        "AppendEntries, receiver, 1 and RequestVote, receiver, 1: say no to a term below mine",
        ("the timer is restarted, or the leader accepted, before the terms are compared",),
    ),
    rules.TERMS_AGREE: Entry(
        "All Servers, 2: a term above mine becomes my term",
        ("a follower accepts a heartbeat without adopting its term", "the first election must make term 1, not 0 or 2"),
    ),
    rules.TERMS_ONLY_GROW: Entry(
        "State: current_term increases monotonically",
        ("the term of a message or a snapshot is stored without checking that it is newer",),
    ),
    rules.STABLE_LEADER: Entry(
        "Leaders, 1: heartbeats during idle periods, so that nobody's election timeout passes",
        (
            "heartbeats are too far apart for the timeouts, or one slow server delays those to the others",
            "a heartbeat does not restart the timer, or a new timeout is drawn without one",
        ),
    ),
    rules.TIMER: Entry(
        "Followers, 2: the timer is restarted by AppendEntries of the current leader, and by giving a vote",
        (
            "any RequestVote restarts it: only one that is granted the vote may",
            "an AppendEntries of an old leader restarts it: compare the terms first",
        ),
    ),
    rules.TIMER_RESTARTS: Entry(
        "Followers, 2: the timer is restarted by AppendEntries of the current leader, and by giving a vote",
        (
            "giving a vote does not restart it, or an AppendEntries without entries does not",
            "the deadline moves, but the thread that waits for it still waits for the old one",
        ),
    ),
    rules.HEARTBEATS: Entry(
        "Leaders, 1: a heartbeat at once when elected, then again and again",
        (
            "too many: a loop without a wait, or a thread for each server that does not end when the leader steps down",
            "too few: heartbeats are sent only along with entries, or stop while a server does not answer",
        ),
    ),
    rules.STATE_MACHINE_SAFETY: Entry(
        "Figure 3, State Machine Safety; all of Figure 2 ensures it",
        (
            "a follower keeps the entries after a conflicting one: all of them must go",
            "a follower commits up to leader_commit although its own log may differ there: AppendEntries, 5",
            "an entry of an old term is committed by counting copies: Leaders, 4",
        ),
    ),
    rules.APPLY_IN_ORDER: Entry(
        "All Servers, 1: while commit_index > last_applied, apply the next one",
        (
            "two threads apply entries and overtake each other: let exactly one thread apply",
            "last_applied is increased before put() and read again after it, without the lock",
        ),
    ),
    rules.AGREEMENT: Entry(
        "Leaders, 2 to 4: append, send, retry until stored, commit what a majority has",
        (
            "commit_index moves, but nothing wakes the thread that applies",
            "followers never hear of the commit: every AppendEntries, heartbeats too, carries leader_commit",
            "next_index is not moved back after a refusal, or never forward after a success",
        ),
    ),
    rules.COMMIT_MAJORITY: Entry(
        "Leaders, 4: an N that a majority of match_index has reached",
        (
            "match_index is set to the end of the leader's log: a reply proves prev_log_index + len(entries), not more",
            "match_index is left over from an earlier term as leader: it starts at 0 after each election",
        ),
    ),
    rules.COMMIT_OWN_TERM: Entry(
        "Leaders, 4: ... and log[N].term == current_term",
        ("copies of entries of older terms are counted, too: check the term of the entry to be committed",),
    ),
    rules.COMMIT_PROVED: Entry(
        "AppendEntries, receiver, 5: commit_index = min(leader_commit, index of the last new entry)",
        ("the minimum is taken with the end of the server's own log, or not at all",),
    ),
    rules.CONSISTENCY: Entry(
        "AppendEntries, receiver, 2: refuse if there is no entry at prev_log_index with prev_log_term",
        ("only the index is compared, not the term", "heartbeats skip the check"),
    ),
    rules.LOG_MATCHING: Entry(
        "AppendEntries, receiver, 3 and 4: a conflict removes that entry and all after it; append what is missing",
        (
            "the log is cut after prev_log_index without a conflict: an old, short message then removes good entries",
            "only the conflicting entry is replaced, and what follows stays",
        ),
    ),
    rules.SAME_ENTRY: Entry(
        "AppendEntries, receiver, 2 to 4",
        ("the consistency check compares the index only", "an entry is changed after it was sent or stored"),
    ),
    rules.LEADER_APPEND_ONLY: Entry(
        "Figure 3, Leader Append-Only; Leaders, 2: append to the local log",
        ("a leader handles an AppendEntries of its own term", "start() chooses an index without the lock"),
    ),
    rules.NEWER_LOG: Entry(
        "RequestVote, receiver, 2: ... and the candidate's log is at least as up-to-date as mine",
        (
            "only the lengths are compared, or only the last terms",
            "after a snapshot has cut the log, the last term is read from an empty list",
        ),
    ),
    rules.REPLY_PROVES: Entry(
        "Leaders, 3: if successful, update next_index and match_index for this follower",
        (
            "match_index is computed from the log at the time of the reply, not from the request",
            "a reply from an earlier term as leader is counted: compare the terms after call() returns",
        ),
    ),
    rules.LEADER_COMPLETENESS: Entry(
        "Figure 3, Leader Completeness; RequestVote, receiver, 2 ensures it",
        (
            "a vote is given to a candidate with an older log",
            "something was committed too soon: by a minority, or by counting copies of an old term's entry",
            "a server forgot what it had stored: is everything saved before the answer leaves?",
        ),
    ),
    rules.FAST_BACKUP: Entry(
        "the end of §5.3: the refusal names the conflicting term and its first index",
        ("next_index goes back by one, or the follower's hint is not used",),
    ),
    rules.FEW_MESSAGES: Entry(
        "Leaders, 3: send the entries from next_index on, all in one message",
        ("a thread for each entry, or a loop that sends again before a reply could have arrived",),
    ),
    rules.SURVIVES: Entry(
        "State, persistent: current_term, voted_for, log[]",
        (
            "one of the three is not saved, or is saved before it is changed",
            "what is read back differs from what was saved",
        ),
    ),
    rules.SAVE_FIRST: Entry(
        "State, persistent: updated on stable storage before responding to RPCs",
        (
            "the answer leaves without save() on one path: check each return of the handler",
            "a candidate asks for votes before it has saved its own",
        ),
    ),
    rules.FAILED_SAVE: Entry(
        "State, persistent: updated on stable storage before responding to RPCs",
        ("the exception from save() is caught, and the answer says yes anyway",),
    ),
    rules.WHOLE_SNAPSHOT: Entry(
        "InstallSnapshot, receiver, 2 to 4 (Figure 13): write the data at its offset; wait for more until done is true",
        (
            "chunks of two snapshots, or from two leaders, are combined",
            "a chunk that arrives twice, or late, is appended twice",
            "a snapshot is saved under an index other than the one passed to snapshot()",
        ),
    ),
    rules.NEWER_SNAPSHOT: Entry(
        "InstallSnapshot, receiver, 5 (Figure 13): discard a snapshot older than what the server already has",
        ("a late InstallSnapshot is not compared with last_applied and with the server's own snapshot",),
    ),
    rules.KEEP_THE_REST: Entry(
        "InstallSnapshot, receiver, 6 (Figure 13): if the log has the snapshot's last entry, keep what follows it",
        ("the whole log is discarded whenever a snapshot arrives",),
    ),
    rules.SNAPSHOT_FIRST: Entry(
        "InstallSnapshot, receiver, 8 (Figure 13): reset the service with the snapshot",
        ("after a restart the log continues where the snapshot ends, but the service never gets the snapshot",),
    ),
    rules.LOG_IS_CUT: Entry(
        "§7: the log up to the snapshot's last entry is discarded",
        (
            "the saved log keeps entries that the snapshot covers",
            "snapshot() cuts the log but does not save the snapshot",
        ),
    ),
    rules.CATCH_UP: Entry(
        "Rules for leaders, §7: send the snapshot to a follower that needs discarded entries",
        (
            "next_index is before the first entry left in the log, and entries are sent anyway",
            "an InstallSnapshot that was lost is not sent again",
        ),
    ),
    rules.MEMBERS_COUNT: Entry(
        "§6: a server uses the latest configuration in its log, committed or not",
        (
            "majorities are still computed from len(peers), or from the last committed configuration",
            "a learner, or a leader that is not a member, is counted",
        ),
    ),
    rules.ONE_CHANGE: Entry(
        "dissertation, 4.1: no new change before the entry of the last one is committed",
        ("change_membership does not check that the last configuration in the log is committed",),
    ),
    rules.OWN_TERM_FIRST: Entry(
        "the correction to dissertation, 4.1: first an entry of the leader's own term",
        ("a new leader changes the membership before its commit_index has reached an entry of its term",),
    ),
    rules.JOINT_CONSENSUS: Entry(
        "Figure 11: C_old,new first, then C_new",
        (
            "C_new is appended at once although more than one server is added or removed",
            "C_new is appended before C_old,new is committed, for example by a leader that restarted",
        ),
    ),
    rules.BOTH_MAJORITIES: Entry(
        "§6: agreement needs separate majorities of the old and of the new configuration",
        (
            "one majority is computed from the servers of both sets together",
            "elections require both majorities and commits do not, or the reverse",
        ),
    ),
    rules.LEARNERS: Entry(
        "§6: new servers join as non-voting members until they have caught up",
        (
            "the new server votes, or commits wait for it, from its first entry on",
            "catching up has no time limit: if the new server is down, change_membership waits forever",
        ),
    ),
    rules.CHANGE_ANSWERS: Entry(
        "the contract: (index, term, True), (-1, term, True) when refused, (leader, term, False) elsewhere",
        (
            "an empty set, or a server that is not in peers, is not refused",
            "a follower does not remember its leader",
        ),
    ),
    rules.CONFIGURATION_STAYS: Entry(
        "§6: use the latest configuration in the log; §7: a snapshot carries the one as of its last entry",
        (
            "after a restart the initial configuration is used again",
            "an entry that is removed from the log leaves its configuration behind",
            "a snapshot is installed without its configuration",
        ),
    ),
    rules.MEMBERS_TOLD: Entry(
        "All Servers, 1: apply every committed entry, including those of kind configuration",
        ("entries of kind configuration are skipped when applying, or members is left empty",),
    ),
    rules.REMOVED_LEADER: Entry(
        "§6: it steps down once C_new is committed; until then it does not count itself",
        ("it steps down when C_new is appended", "it never steps down", "it counts itself in the majority of C_new"),
    ),
    rules.REMOVED_SERVER: Entry(
        "§6: servers disregard RequestVote while they believe that there is a leader",
        ("a RequestVote with a higher term is accepted although the leader was heard a moment ago",),
    ),
    rules.PRE_VOTE_CHANGES_NOTHING: Entry(
        "dissertation, 9.6: would you vote for me, if I asked in the next term?",
        (
            "the term grows, or voted_for is set, when the pre-vote starts: both belong to the real election",
            "a pre-vote request passes through the code that adopts higher terms",
        ),
    ),
    rules.WHO_GETS_A_PRE_VOTE: Entry(
        "dissertation, 9.6: only if the log is new enough, and no leader was heard for the minimum election timeout",
        ("only the log is checked, or only whether a leader was heard", "a pre-vote of a past term is granted"),
    ),
    rules.NOT_DISTURBED: Entry(
        "dissertation, 9.6 and 4.2.3: a server that hears a leader answers no",
        ("a server that returns raises the term before a majority has said yes",),
    ),
    rules.CHECK_QUORUM: Entry(
        "dissertation, 6.2: a leader steps down if an election timeout passes without answers from a majority",
        ("a leader never checks how long ago a majority answered",),
    ),
    rules.STILL_ELECTED: Entry(
        "dissertation, 9.6; Followers, 2: after an election timeout, ask",
        (
            "the server still remembers the lost leader, so it refuses every pre-vote",
            "the higher term in a refusal is ignored, so the candidate's term stays behind",
        ),
    ),
}

FAULTS: dict[str, str] = {
    "exception": "An exception that nothing caught ended this thread. The traceback below ends at the line in your code.",
    "init-exception": "Raft(...) must return: let it set fields and start threads, and do everything else in those threads.",
    "init-hangs": "Raft(...) must return at once: start your loops in threads of their own.",
    "busy-loop": "A thread that never waits stops the clock for all servers. Wait on a Condition or sleep in the loop.",
    "host-hangs": "Something that the lab cannot interrupt blocks or computes for too long (input(), a huge sum, a C call).",
    "host-died": "The process that runs your code ended. Nothing in a Raft needs os._exit, signals or kill.",
    "deadlock": "Take locks in one fixed order, and hold none during a call, a sleep or a put.",
    "no-answer": "Every handler must return a reply, and start() and get_state() must return at once.",
    "refused-call": "The simulator replays runs exactly, so it cannot let this call through. The labs never need it.",
    "not-by-value": "Messages travel as bytes: use numbers, strings, bytes, lists, dicts and dataclasses of these.",
    "bad-reply": "Every path through the handler must return its reply.",
    "bad-message": "The message does not have the fields and types that the handler's annotations declare.",
    "bad-result": "The contract at the top of the skeleton says what each method returns.",
    "bad-apply": "See ApplyMsg in the skeleton: index, term, and a command that can be copied by value.",
    "bad-peer": "peers[i].call(method, args) reaches servers 0 to n-1 and the RPC handlers of your Raft class.",
    "flood": "This is far more than a Raft needs. Wait for a reply, or a while, before you send again; log fewer lines.",
}
