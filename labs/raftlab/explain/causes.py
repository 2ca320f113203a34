"""What explains a failure: for a rule, the line of Figure 2; for a fault, a hint; for an exception, its usual causes.

``RULES`` paraphrases Figure 2: it has a line for every rule in :mod:`raftlab.explain.rules`. ``FAULTS`` has mistakes that
have nothing to do with Raft, such as a deadlock. They are reported by the host that runs the code, or by the judge that
watches the host. ``EXCEPTIONS`` has the usual causes of exceptions that are frequent in students' Rafts. The usual causes
of a broken rule depend on the failure's sentence; see :mod:`raftlab.explain.symptoms`.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.explain.failure import Rule

RULES: dict[Rule, str] = {
    rules.ELECTION_SAFETY: "Candidates, 2: votes from a majority of servers, all for this term, make a candidate leader",
    rules.ONE_VOTE: "RequestVote, receiver, 2: grant if voted_for is nobody or this candidate",
    rules.VOTE_ONLY_IF: (
        "RequestVote, receiver, 1 and 2: grant only if the term is not older and the log at least as up-to-date as mine"
    ),
    rules.MAJORITY: "Candidates, 2: a candidate leads once a majority of all servers has voted for it",
    rules.LIVENESS: (
        "Followers, 2: become a candidate if an election timeout passes without a leader's message or a granted vote"
    ),
    rules.HIGHER_TERM: (
        "All Servers, 2: a term above mine, in a request or in a reply, becomes my term, and I am a follower"
    ),
    rules.OLD_TERM: "AppendEntries, receiver, 1 and RequestVote, receiver, 1: say no to a term below mine",
    rules.TERMS_AGREE: "All Servers, 2: a term above mine becomes my term",
    rules.TERMS_ONLY_GROW: "State: current_term increases monotonically",
    rules.STABLE_LEADER: "Leaders, 1: heartbeats during idle periods, so that nobody's election timeout passes",
    rules.TIMER: "Followers, 2: the timer is restarted by AppendEntries of the current leader, and by giving a vote",
    rules.TIMER_RESTARTS: (
        "Followers, 2: the timer is restarted by AppendEntries of the current leader, and by giving a vote"
    ),
    rules.HEARTBEATS: "Leaders, 1: a heartbeat at once when elected, then again and again",
    rules.STATE_MACHINE_SAFETY: "Figure 3, State Machine Safety; all of Figure 2 ensures it",
    rules.APPLY_IN_ORDER: "All Servers, 1: while commit_index > last_applied, apply the next one",
    rules.AGREEMENT: "Leaders, 2 to 4: append, send, retry until stored, commit what a majority has",
    rules.COMMIT_MAJORITY: "Leaders, 4: commit index N if a majority of match_index has reached N",
    rules.COMMIT_OWN_TERM: "Leaders, 4: commit index N only if log[N].term == current_term",
    rules.COMMIT_PROVED: "AppendEntries, receiver, 5: commit_index = min(leader_commit, index of the last new entry)",
    rules.CONSISTENCY: "AppendEntries, receiver, 2: refuse if there is no entry at prev_log_index with prev_log_term",
    rules.LOG_MATCHING: (
        "AppendEntries, receiver, 3 and 4: remove a conflicting entry and all after it; append what is missing"
    ),
    rules.SAME_ENTRY: "AppendEntries, receiver, 2 to 4",
    rules.LEADER_APPEND_ONLY: "Figure 3, Leader Append-Only; Leaders, 2: append to the local log",
    rules.NEWER_LOG: "RequestVote, receiver, 2: ... and the candidate's log is at least as up-to-date as mine",
    rules.REPLY_PROVES: "Leaders, 3: if successful, update next_index and match_index for this follower",
    rules.LEADER_COMPLETENESS: "Figure 3, Leader Completeness; RequestVote, receiver, 2 ensures it",
    rules.FAST_BACKUP: "the end of §5.3: the refusal names the conflicting term and its first index",
    rules.FEW_MESSAGES: "Leaders, 3: send the entries from next_index on, all in one message",
    rules.SURVIVES: "State, persistent: current_term, voted_for, log[]",
    rules.SAVE_FIRST: "State, persistent: updated on stable storage before responding to RPCs",
    rules.FAILED_SAVE: "State, persistent: updated on stable storage before responding to RPCs",
    rules.WHOLE_SNAPSHOT: (
        "InstallSnapshot, receiver, 2 to 4 (Figure 13): write the data at its offset; wait for more until done is true"
    ),
    rules.NEWER_SNAPSHOT: (
        "InstallSnapshot, receiver, 5 (Figure 13): discard a snapshot older than what the server already has"
    ),
    rules.KEEP_THE_REST: (
        "InstallSnapshot, receiver, 6 (Figure 13): if the log has the snapshot's last entry, keep what follows it"
    ),
    rules.SNAPSHOT_FIRST: "InstallSnapshot, receiver, 8 (Figure 13): reset the service with the snapshot",
    rules.LOG_IS_CUT: "§7: the log up to the snapshot's last entry is discarded",
    rules.CATCH_UP: "Rules for leaders, §7: send the snapshot to a follower that needs discarded entries",
    rules.MEMBERS_COUNT: "§6: a server uses the latest configuration in its log, committed or not",
    rules.ONE_CHANGE: "dissertation, 4.1: no new change before the entry of the previous change is committed",
    rules.OWN_TERM_FIRST: "the correction to dissertation, 4.1: first an entry of the leader's own term",
    rules.JOINT_CONSENSUS: "Figure 11: C_old,new first, then C_new",
    rules.BOTH_MAJORITIES: "§6: agreement needs separate majorities of the old and of the new configuration",
    rules.LEARNERS: "§6: new servers join as non-voting members until they have caught up",
    rules.CHANGE_ANSWERS: (
        "the contract: (index, term, True), (-1, term, True) when refused, (leader, term, False) elsewhere"
    ),
    rules.CONFIGURATION_STAYS: (
        "§6: use the latest configuration in the log; §7: a snapshot contains the configuration at its last entry"
    ),
    rules.MEMBERS_TOLD: "All Servers, 1: apply every committed entry, including those of kind configuration",
    rules.REMOVED_LEADER: (
        "§6: a leader outside C_new steps down once C_new is committed; until then it does not count itself"
    ),
    rules.REMOVED_SERVER: "§6: servers disregard RequestVote while they believe that there is a leader",
    rules.PRE_VOTE_CHANGES_NOTHING: "dissertation, 9.6: would you vote for me, if I asked in the next term?",
    rules.WHO_GETS_A_PRE_VOTE: (
        "dissertation, 9.6: only if the log is new enough, and no leader was heard for the minimum election timeout"
    ),
    rules.NOT_DISTURBED: "dissertation, 9.6 and 4.2.3: a server that hears a leader refuses to vote",
    rules.CHECK_QUORUM: (
        "dissertation, 6.2: a leader steps down if an election timeout passes without answers from a majority"
    ),
    rules.STILL_ELECTED: "dissertation, 9.6; Followers, 2: after an election timeout, ask for pre-votes, then for votes",
    rules.TRANSFER_ANSWERS: (
        "the contract: (target, term, True) when begun, (-1, term, True) when refused, (leader, term, False) elsewhere"
    ),
    rules.TRANSFER: (
        "dissertation, 3.10: replicate what the target lacks, then send TimeoutNow; the target starts an election at once"
    ),
    rules.WHOLE_LOG_FIRST: (
        "dissertation, 3.10: send TimeoutNow only once the target's answers prove that its log matches the leader's"
    ),
    rules.NO_COMMANDS_MEANWHILE: (
        "dissertation, 3.10: no new client requests meanwhile; after about an election timeout the leader resumes"
    ),
    rules.WHO_STANDS: "dissertation, 3.10: act as if the election timer had run out; All Servers: refuse an older term",
    rules.ELECTION_ON_REQUEST: "dissertation, 4.2.3: a flag in RequestVote says that the leader wants this election",
    rules.LINEARIZABLE: (
        "§8: each operation seems to happen at once, exactly once, at some moment between its call and its return"
    ),
    rules.EXACTLY_ONCE: "§8: the state machine tracks the latest serial number of each client, with its response",
    rules.PROGRESS: (
        "§8: if the server is not the leader, it rejects the request and says who leads; the client tries again"
    ),
    rules.ANSWERED_IN_TIME: "dissertation, 6.2: a leader that cannot commit must not keep its clients waiting",
    rules.STATUSES: "§8: respond after applying the entry to the state machine",
    rules.SESSIONS: "dissertation, 6.3: servers must agree on when a session expires",
    rules.UNKNOWN_ONLY_IF: "dissertation, 6.3: without a session, a retry could be carried out twice",
    rules.CLERK_SERIALS: "§8: clients assign unique serial numbers to every command",
    rules.BAD_REQUESTS: "dissertation, 6.3: what is in the log is applied by every server, for ever",
    rules.SERVICE_SNAPSHOTS: "§7: once the log has reached a size, take a snapshot",
    rules.CLIENT_COST: "§8: the client sends its requests to the leader",
    rules.APPLIED_STATE: (
        "Figure 3: if a server has applied an entry at an index, no server applies a different entry there"
    ),
    rules.READ_INDEX: (
        "dissertation, 6.4: save the commit index, send a round of heartbeats, and wait for a majority of answers"
    ),
    rules.LEASE: (
        "dissertation, 6.4.1: a lease begins when the heartbeats were sent, and ends before anyone else can be elected"
    ),
    rules.SILENT_VOTERS: (
        "dissertation, 6.4.1: a lease relies on voters that refuse for a while after they heard a leader"
    ),
    rules.HOLDERS: (
        "dissertation, 6.4.1, for holders that do not lead: their lease ends before anything is committed without them"
    ),
    rules.SESSION_READS: (
        "dissertation, 6.4: a client names the index that it has seen; the server answers once it has applied this index"
    ),
    rules.SNAPSHOT_READS: "dissertation, 6.4: a value belongs to the index up to which the server has applied the log",
    rules.READ_COST: "dissertation, 6.4: read-only queries bypass the Raft log",
}
"""For each rule, where it comes from (a line of Figure 2 or 13, or a section) and, in our words, what is said there."""

FAULTS: dict[str, str] = {
    "exception": "An uncaught exception ended this thread. The traceback below ends at the line in your code.",
    "init-exception": "Raft(...) must return: let it set fields and start threads, and do everything else in those threads.",
    "init-hangs": "Raft(...) must return at once: start your loops in threads of their own.",
    "busy-loop": "A thread that never waits stops the clock for all servers. Wait on a Condition or sleep in the loop.",
    "host-hangs": "A call blocks or computes for too long, and the lab cannot interrupt it (input(), a huge sum, a C call).",
    "host-died": "The process that runs your code ended. Nothing in a Raft needs os._exit, signals or kill.",
    "deadlock": "Take locks in one fixed order, and hold none during a call, a sleep or a put.",
    "no-answer": "Every handler must return a reply, and start() and get_state() must return at once.",
    "refused-call": "A run must be repeatable, and has no terminal. No lab needs this call; breakpoint() needs --pdb.",
    "not-by-value": "Messages travel as bytes: use numbers, strings, bytes, lists, dicts and dataclasses of these.",
    "bad-reply": "Every path through the handler must return its reply.",
    "bad-message": "The message does not have the fields and types that the handler's annotations declare.",
    "no-method": "The method belongs to an earlier lab. The other tests of this lab do not need it.",
    "bad-result": "The contract at the top of the skeleton says what each method returns.",
    "bad-apply": "See ApplyMsg in the skeleton: index, term, and a command that can be copied by value.",
    "bad-peer": "peers[i].call(method, args) reaches servers 0 to n-1 and the RPC handlers of your Raft class.",
    "flood": "This is far more than a Raft needs. Wait for a reply, or a while, before you send again; log fewer lines.",
}

_NO_REPLY = ("call() returned None, because the request or the reply was lost: check for None before you use it",)
_CHANGED_MEANWHILE = (
    "another thread changed it during this loop: hold the lock for the whole loop, or loop over a copy",
)

BDB_QUIT = "bdb.BdbQuit"  # this exception has no message

EXCEPTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("IndexError", ""): (
        "an index from a message, or next_index, is outside this log: compare it with the log's first and last index",
        "from lab 2D on, the log does not begin at index 1: subtract the index of the snapshot",
        "another thread cut the log after this thread had looked at it: hold the lock from the check to the use",
    ),
    ("KeyError", ""): (
        "there is no entry for this server: from lab 2E on, the set of servers can change",
        "another thread has replaced or changed the dict: hold the lock from the check to the use",
    ),
    ("AttributeError", "'NoneType' object"): _NO_REPLY,
    ("TypeError", "'NoneType'"): _NO_REPLY,
    ("AttributeError", "'Raft' object has no attribute"): (
        "__init__ starts a thread before it sets all fields: start the threads at its end",
        "the name of the field is misspelt, here or in __init__",
    ),
    ("RuntimeError", "changed size during iteration"): _CHANGED_MEANWHILE,
    ("RuntimeError", "mutated during iteration"): _CHANGED_MEANWHILE,
    ("RuntimeError", "on un-acquired lock"): (
        "a Condition needs its lock for wait() and notify(): call them inside `with condition:`",
    ),
    (BDB_QUIT, ""): (
        "a breakpoint() is left in your code: servers on the real network have no terminal, use the simulator",
    ),
    ("RuntimeError", "release unlocked lock"): (
        "the lock is released twice: use `with lock:` instead of acquire() and release()",
    ),
}
"""The usual causes of an exception in a Raft. A key is the exception's name, and words that its message must contain."""


def of_exception(text: str) -> tuple[str, ...]:
    """The usual causes of the exception whose name and message are at the end of ``text``. Empty if this exception is
    not in ``EXCEPTIONS``."""
    for (name, words), often in EXCEPTIONS.items():
        if name == BDB_QUIT and text.endswith(name):
            return often
        if f": {name}: " in text and words in text.rpartition(f": {name}: ")[2]:
            return often
    return ()
