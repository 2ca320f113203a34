"""What stands behind each failure: the line of Figure 2, and what usually is the cause.

``RULES`` are the promises that tests and referee know (:mod:`raftlab.explain.rules`); Figure 2 is told in our words, and the
causes are those that Rafts of students and of companies have had. ``FAULTS`` are mistakes that have nothing to do with
Raft: what the host, or the judge that watches it, can name.
"""

from __future__ import annotations

from dataclasses import dataclass

from raftlab.explain import rules
from raftlab.explain.failure import Rule


@dataclass(frozen=True, slots=True)
class Entry:
    """``figure`` is the place in Figure 2 (or 13) and what it says; ``often`` are causes, the most common first."""

    figure: str
    often: tuple[str, ...] = ()


RULES: dict[Rule, Entry] = {
    rules.ELECTION_SAFETY: Entry(
        "Candidates, 2: a majority of the votes of this term makes a leader",
        (
            "a vote that was asked for in an older term is counted: compare the term after call() returns",
            "a server votes twice in a term: see its two answers above",
        ),
    ),
    rules.ONE_VOTE: Entry(
        "RequestVote, receiver, 2: grant if voted_for is nobody or this candidate",
        (
            "voted_for is cleared where no new term begins (a heartbeat, a lost election)",
            "voted_for is looked at and set in two steps, and the lock is let go in between",
        ),
    ),
    rules.VOTE_ONLY_IF: Entry(
        "RequestVote, receiver, 1 and 2: not for an older term, and only for a log at least as up-to-date as mine",
        ("voted_for is not cleared when a newer term begins", "only the length of the logs is compared"),
    ),
    rules.MAJORITY: Entry(
        "Candidates, 2: leader upon votes of a majority of all servers",
        (
            "the majority is taken of the servers that answered; it is of all: len(peers) // 2 + 1",
            "one server's vote is counted twice: keep the voters in a set",
        ),
    ),
    rules.LIVENESS: Entry(
        "Followers, 2: no word of a leader and no vote given for an election timeout: become a candidate",
        (
            "votes are asked for one server after the other, and one that is away keeps all waiting: a thread for each",
            "the timer of a candidate, or of a leader that stepped down, is never started again",
            "a vote is refused for ever: whose log is newer is decided by the last term first, then by the length",
        ),
    ),
    rules.HIGHER_TERM: Entry(
        "All Servers, 2: a term above mine, in a request or in a reply, becomes my term, and I am a follower",
        ("replies are not looked at, or only those that say yes", "the role changes, but the term does not"),
    ),
    rules.OLD_TERM: Entry(
        "AppendEntries, receiver, 1 and RequestVote, receiver, 1: say no to a term below mine",
        ("the timer is restarted, or the leader believed, before the terms are compared",),
    ),
    rules.TERMS_AGREE: Entry(
        "All Servers, 2: a term above mine becomes my term",
        ("a follower takes a heartbeat without taking its term", "the first election must make term 1, not 0 or 2"),
    ),
    rules.TERMS_ONLY_GROW: Entry(
        "State: current_term increases monotonically",
        ("a message's or a snapshot's term is stored without a look at whether it is newer",),
    ),
    rules.STABLE_LEADER: Entry(
        "Leaders, 1: heartbeats during idle periods, so that nobody's election timeout passes",
        (
            "heartbeats are too far apart for the timeouts, or one slow server holds up those to the others",
            "a heartbeat does not restart the timer, or the timer is drawn anew without it",
        ),
    ),
    rules.TIMER: Entry(
        "Followers, 2: the timer is restarted by AppendEntries of the current leader, and by giving a vote",
        (
            "any RequestVote restarts it: only one that gets the vote may",
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
        ("a loop without a wait, or a thread for each server that nobody ends when the leader steps down",),
    ),
    rules.STATE_MACHINE_SAFETY: Entry(
        "Figure 3, State Machine Safety; Figure 2 as a whole keeps it",
        (
            "a follower keeps what stands behind a conflicting entry: all of it must go",
            "a follower commits up to leader_commit although its own log may differ there: AppendEntries, 5",
            "an entry of an old term is committed by counting copies: Leaders, 4",
        ),
    ),
    rules.APPLY_IN_ORDER: Entry(
        "All Servers, 1: while commit_index > last_applied, apply the next one",
        (
            "two threads apply, and overtake each other: one thread, which nobody else does the work of",
            "last_applied is advanced before put() and read again after it, without the lock",
        ),
    ),
    rules.AGREEMENT: Entry(
        "Leaders, 2 to 4: append, send, retry until stored, commit what a majority has",
        (
            "commit_index moves, but nobody wakes the thread that applies",
            "followers never hear of the commit: every AppendEntries, heartbeats too, carries leader_commit",
            "next_index is not moved back after a refusal, or never forward after a success",
        ),
    ),
    rules.COMMIT_MAJORITY: Entry(
        "Leaders, 4: an N that a majority of match_index has reached",
        (
            "match_index is set to the end of the leader's log: a reply proves prev_log_index + len(entries), no more",
            "match_index is kept from an earlier time as leader: it begins at 0 after each election",
        ),
    ),
    rules.COMMIT_OWN_TERM: Entry(
        "Leaders, 4: ... and log[N].term == current_term",
        ("copies are counted for entries of older terms, too: look at the term of the entry that is to be committed",),
    ),
    rules.COMMIT_PROVED: Entry(
        "AppendEntries, receiver, 5: commit_index = min(leader_commit, index of the last new entry)",
        ("the minimum is taken with the end of the own log, or not at all",),
    ),
    rules.CONSISTENCY: Entry(
        "AppendEntries, receiver, 2: no, if there is no entry at prev_log_index with prev_log_term",
        ("only the index is compared, not the term", "heartbeats skip the check"),
    ),
    rules.LOG_MATCHING: Entry(
        "AppendEntries, receiver, 3 and 4: a conflict removes that entry and all behind it; append what is missing",
        (
            "the log is cut behind prev_log_index without a conflict: an old, short message then removes good entries",
            "only the conflicting entry is replaced, and what follows stays",
        ),
    ),
    rules.SAME_ENTRY: Entry(
        "AppendEntries, receiver, 2 to 4 keep it",
        ("the consistency check compares the index only", "an entry is changed after it was sent or stored"),
    ),
    rules.LEADER_APPEND_ONLY: Entry(
        "Figure 3, Leader Append-Only; Leaders, 2: append to the local log",
        ("a leader handles an AppendEntries of its own term", "start() gives an index without the lock"),
    ),
    rules.NEWER_LOG: Entry(
        "RequestVote, receiver, 2: ... and the candidate's log is at least as up-to-date as mine",
        (
            "only the lengths are compared, or only the last terms",
            "after a cut by a snapshot the last term is taken from an empty list",
        ),
    ),
    rules.REPLY_PROVES: Entry(
        "Leaders, 3: if successful, update next_index and match_index for this follower",
        (
            "match_index is computed from the log as it is when the reply comes, not from what was sent",
            "a reply of an earlier term as leader is counted: compare the term after call() returns",
        ),
    ),
    rules.LEADER_COMPLETENESS: Entry(
        "Figure 3, Leader Completeness; RequestVote, receiver, 2 keeps it",
        (
            "a vote is given to a candidate with an older log",
            "something was committed too soon: by a minority, or by counting copies of an old term's entry",
            "a server forgot what it had stored: is it saved before the answer leaves?",
        ),
    ),
    rules.FAST_BACKUP: Entry(
        "the end of §5.3: the refusal names the term in the way and its first index",
        ("next_index goes back by one, or the follower's hint is not used",),
    ),
    rules.FEW_MESSAGES: Entry(
        "Leaders, 3: send the entries from next_index on, all in one message",
        ("a thread for each entry, or a loop that sends again before an answer could be there",),
    ),
    rules.SURVIVES: Entry(
        "State, persistent: current_term, voted_for, log[]",
        ("one of the three is not saved, or is saved before it is changed", "what is read back is not what was saved"),
    ),
    rules.SAVE_FIRST: Entry(
        "State, persistent: updated on stable storage before responding to RPCs",
        (
            "the answer leaves by one path without save(): look at each return of the handler",
            "a candidate asks for votes before its own vote is saved",
        ),
    ),
    rules.FAILED_SAVE: Entry(
        "State, persistent: updated on stable storage before responding to RPCs",
        ("the error of save() is caught, and the answer says yes all the same",),
    ),
    rules.WHOLE_SNAPSHOT: Entry(
        "InstallSnapshot, receiver, 2 to 4 (Figure 13): write the data at its offset; go on when it is done",
        (
            "chunks of two snapshots, or of two leaders, are put together",
            "a chunk that comes twice, or late, is added twice",
            "a snapshot is saved under another index than the one snapshot() was given",
        ),
    ),
    rules.NEWER_SNAPSHOT: Entry(
        "InstallSnapshot, receiver, 5 (Figure 13): discard snapshots older than what is there",
        ("a late InstallSnapshot is not compared with what is applied and with the own snapshot",),
    ),
    rules.KEEP_THE_REST: Entry(
        "InstallSnapshot, receiver, 6 (Figure 13): if the log has the snapshot's last entry, keep what follows it",
        ("the whole log is thrown away whenever a snapshot comes",),
    ),
    rules.SNAPSHOT_FIRST: Entry(
        "InstallSnapshot, receiver, 8 (Figure 13): reset the service with the snapshot",
        ("after a restart the log goes on where the snapshot ends, but the service never gets the snapshot",),
    ),
    rules.LOG_IS_CUT: Entry(
        "§7: the log up to the snapshot's last entry is discarded",
        ("the saved log keeps entries that the snapshot covers",),
    ),
    rules.CATCH_UP: Entry(
        "Rules for leaders, §7: a snapshot for whoever needs entries that are gone",
        (
            "next_index points before the first entry that is left, and entries are sent all the same",
            "an InstallSnapshot that was lost is not sent again",
        ),
    ),
    rules.MEMBERS_COUNT: Entry(
        "§6: a server uses the latest configuration in its log, committed or not",
        (
            "majorities are still taken of len(peers), or of the configuration that was committed last",
            "a learner, or a leader that is not a member, is counted",
        ),
    ),
    rules.ONE_CHANGE: Entry(
        "dissertation, 4.1: no new change before the entry of the last one is committed",
        ("change_membership does not look whether the last configuration of the log is committed",),
    ),
    rules.OWN_TERM_FIRST: Entry(
        "the correction to dissertation, 4.1: first an entry of the leader's own term",
        ("a new leader changes the membership before its commit_index has reached an entry of its term",),
    ),
    rules.JOINT_CONSENSUS: Entry(
        "Figure 11: C_old,new first, then C_new",
        (
            "C_new is appended at once although more than one server comes or goes",
            "C_new is appended before C_old,new is committed, as by a leader that restarted",
        ),
    ),
    rules.BOTH_MAJORITIES: Entry(
        "§6: agreement needs separate majorities of the old and of the new configuration",
        (
            "one majority is taken of all servers of both sets together",
            "elections do it, commits do not; or the reverse",
        ),
    ),
    rules.LEARNERS: Entry(
        "§6: new servers join as non-voting members until they have caught up",
        (
            "the new server votes, or is waited for, from its first entry on",
            "catching up has no limit: a server that is down keeps change_membership waiting for ever",
        ),
    ),
    rules.CHANGE_ANSWERS: Entry(
        "the contract: (index, term, True), (-1, term, True) when refused, (leader, term, False) elsewhere",
        (
            "an empty set, or a server that peers does not have, is not refused",
            "a follower does not remember its leader",
        ),
    ),
    rules.CONFIGURATION_STAYS: Entry(
        "§6: the latest configuration in the log; §7: a snapshot carries the one as of its last entry",
        (
            "after a restart the first configuration counts again",
            "an entry that is removed from the log leaves its configuration behind",
            "a snapshot is installed without its configuration",
        ),
    ),
    rules.MEMBERS_TOLD: Entry(
        "All Servers, 1: apply every committed entry, those of kind configuration too",
        ("entries of kind configuration are skipped when applying, or members is left empty",),
    ),
    rules.REMOVED_LEADER: Entry(
        "§6: it steps down once C_new is committed; it does not count itself meanwhile",
        ("it steps down when C_new is appended", "it never steps down", "it counts itself in the majority of C_new"),
    ),
    rules.REMOVED_SERVER: Entry(
        "§6: servers disregard RequestVote while they believe that there is a leader",
        ("a RequestVote with a higher term is taken although the leader was heard a moment ago",),
    ),
    rules.PRE_VOTE_CHANGES_NOTHING: Entry(
        "dissertation, 9.6: would you vote for me, if I asked in the next term?",
        (
            "the term goes up, or voted_for is set, when the pre-vote begins: that waits for the real election",
            "a pre-vote request goes through the code that adopts higher terms",
        ),
    ),
    rules.WHO_GETS_A_PRE_VOTE: Entry(
        "dissertation, 9.6: only if the log is new enough, and no leader was heard for the least election timeout",
        ("only the log is compared, or only the leader is looked at", "a pre-vote of a past term is granted"),
    ),
    rules.NOT_DISTURBED: Entry(
        "dissertation, 9.6 and 4.2.3: who hears a leader answers no",
        ("a server that comes back raises the term before anybody has said yes",),
    ),
    rules.CHECK_QUORUM: Entry(
        "dissertation, 6.2: a leader steps down if an election timeout passes without a round of answers",
        ("a leader never looks how long ago a majority has answered",),
    ),
    rules.STILL_ELECTED: Entry(
        "dissertation, 9.6; Followers, 2: after an election timeout, ask",
        (
            "the leader that one has lost is remembered, and so every pre-vote is refused",
            "a refusal with a higher term is not looked at, so the asker stays behind",
        ),
    ),
}

FAULTS: dict[str, str] = {
    "exception": "An exception that nobody caught ended this thread. The traceback below ends in your own line.",
    "init-exception": "Raft(...) must return; let it set fields and start threads, and do everything else in them.",
    "init-hangs": "Raft(...) must return at once: start your loops in threads of their own.",
    "busy-loop": "A thread that never waits stops the clock for everybody. Wait on a Condition or sleep in the loop.",
    "host-hangs": "Something outside the lab's reach blocks or computes for very long (input(), a huge sum, a C call).",
    "host-died": "The process that runs your code ended. Nothing in a Raft needs os._exit, signals or kill.",
    "deadlock": "Take locks in one fixed order, and hold none across a call, a sleep or a put.",
    "no-answer": "Every handler must return a reply, and start() and get_state() must return at once.",
    "refused-call": "The simulator replays runs exactly, so it cannot let this call through. The labs never need it.",
    "not-by-value": "Messages travel as bytes: use numbers, strings, bytes, lists, dicts and dataclasses of these.",
    "bad-reply": "Every path through the handler must end with a return of its reply.",
    "bad-message": "What the lab network received does not have the shape that the handler's annotations declare.",
    "bad-result": "See the contract at the top of the skeleton for what each method returns.",
    "bad-apply": "See ApplyMsg in the skeleton: index, term and a command that can cross by value.",
    "bad-peer": "peers[i].call(method, args) reaches servers 0 to n-1 and the RPC handlers of your Raft class.",
    "flood": "Far more than a Raft needs. Wait for an answer, or a while, before you send again; log fewer lines.",
}
