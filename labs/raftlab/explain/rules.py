"""The rules of Raft that a failure can name: the text of each, the paper's section, and the handout to read.

Section numbers are those of the extended paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus
Algorithm"), or, after the word "dissertation", those of Ongaro's "Consensus: Bridging Theory and Practice". The wording
is ours.
"""

from __future__ import annotations

from raftlab.explain.failure import Rule

_DETAILS_2A = "handouts/lab-2a-details.md"
_DETAILS_2B = "handouts/lab-2b-details.md"
_DETAILS_2C = "handouts/lab-2c-details.md"
_DETAILS_2D = "handouts/lab-2d-details.md"
_DETAILS_2E = "handouts/lab-2e-details.md"
_DETAILS_2F = "handouts/lab-2f-details.md"
_DETAILS_2G = "handouts/lab-2g-details.md"
_DETAILS_3A = "handouts/lab-3a-details.md"
_DETAILS_3B = "handouts/lab-3b-details.md"
_FAILURES_2A = "handouts/lab-2a-failures.md"
_FAILURES_2B = "handouts/lab-2b-failures.md"

ELECTION_SAFETY = Rule(
    "Election Safety", "at most one server leads in any one term", "§5.2", f"{_DETAILS_2A}#one-leader-a-term"
)
ONE_VOTE = Rule(
    "one vote a term",
    "a server gives its vote to at most one candidate in a term",
    "Figure 2, RequestVote 2; §5.2",
    f"{_DETAILS_2A}#who-gets-my-vote",
)
VOTE_ONLY_IF = Rule(
    "who gets a vote",
    "a server votes only for candidates of its term whose logs are at least as up-to-date as its own",
    "Figure 2, RequestVote 1-2; §5.4.1",
    f"{_DETAILS_2A}#who-gets-my-vote",
)
MAJORITY = Rule(
    "majority",
    "a candidate leads once more than half of all servers voted for it, and not before",
    "§5.2",
    f"{_DETAILS_2A}#counting-votes",
)
LIVENESS = Rule(
    "liveness of elections",
    "servers that can reach each other and are a majority elect a leader soon",
    "§5.2, §5.6",
    f"{_FAILURES_2A}#nobody-is-elected",
)
HIGHER_TERM = Rule(
    "higher term",
    "a server that sees a term above its own adopts it and becomes a follower",
    "Figure 2, All Servers; §5.1",
    f"{_DETAILS_2A}#terms",
)
OLD_TERM = Rule(
    "old term",
    "a message of an older term is refused and changes nothing",
    "Figure 2, AppendEntries 1, RequestVote 1; §5.1",
    f"{_DETAILS_2A}#terms",
)
TERMS_AGREE = Rule(
    "terms agree",
    "servers that hear the same leader are in the same term, and terms start at 1",
    "§5.1",
    f"{_DETAILS_2A}#terms",
)
TERMS_ONLY_GROW = Rule(
    "terms only grow", "a server's term never goes back", "Figure 2, State; §5.1", f"{_DETAILS_2A}#terms"
)
STABLE_LEADER = Rule(
    "stable leader",
    "while nothing fails, the leader's heartbeats keep the others from starting elections",
    "§5.2",
    f"{_FAILURES_2A}#elections-for-no-reason",
)
TIMER = Rule(
    "election timer",
    "only three events restart a running timer: a message from the current leader, granting a vote, starting an election",
    "§5.2; Figure 2, Followers",
    f"{_DETAILS_2A}#the-election-timer",
)
# This is the same rule as TIMER, but here the timer was not restarted although it should have been. Such failures have
# other causes than a timer that is restarted too often, so they need a rule of their own.
TIMER_RESTARTS = Rule(
    "election timer",
    "each of three events restarts it: a message from the current leader, granting a vote, starting an election",
    "§5.2; Figure 2, Followers",
    f"{_DETAILS_2A}#the-election-timer",
)
HEARTBEATS = Rule(
    "heartbeats",
    "a leader sends heartbeats steadily, and no more than about ten per second to each server",
    "§5.2; lab limits",
    f"{_DETAILS_2A}#heartbeats",
)

# --- replication ---

STATE_MACHINE_SAFETY = Rule(
    "State Machine Safety",
    "no two servers apply different commands at the same index",
    "§5.4.3",
    f"{_FAILURES_2B}#the-same-command-everywhere",
)
APPLY_IN_ORDER = Rule(
    "apply in order",
    "every server applies index 1, 2, 3, ... without a gap",
    "Figure 2, All Servers; §5.3",
    f"{_DETAILS_2B}#apply-in-order",
)
AGREEMENT = Rule(
    "agreement",
    "a command is soon applied if the leader that accepted it can reach a majority",
    "§5.3",
    f"{_FAILURES_2B}#nothing-is-committed",
)
COMMIT_MAJORITY = Rule(
    "commit by majority",
    "an entry is committed once more than half of all servers have stored it, and not before",
    "§5.3",
    f"{_DETAILS_2B}#when-is-an-entry-committed",
)
COMMIT_OWN_TERM = Rule(
    "commit only your own term",
    "a leader counts copies only of entries of its own term; when one is committed, all entries before it are, too",
    "§5.4.2, Figure 8",
    f"{_DETAILS_2B}#when-is-an-entry-committed",
)
COMMIT_PROVED = Rule(
    "commit what was proved",
    "a follower commits no further than the last entry that the leader's message brought or checked",
    "Figure 2, AppendEntries 5",
    f"{_DETAILS_2B}#when-is-an-entry-committed",
)
CONSISTENCY = Rule(
    "consistency check",
    "a follower takes entries only if its log has the entry before them, with the same index and term",
    "Figure 2, AppendEntries 2; §5.3",
    f"{_DETAILS_2B}#the-consistency-check",
)
LOG_MATCHING = Rule(
    "Log Matching",
    "only a conflict removes entries: the conflicting one and all after it; everything else stays",
    "Figure 2, AppendEntries 3-4; §5.3",
    f"{_DETAILS_2B}#the-consistency-check",
)
LEADER_APPEND_ONLY = Rule(
    "Leader Append-Only",
    "a leader adds to its own log and never removes or overwrites an entry",
    "§5.3, Figure 3",
    f"{_DETAILS_2B}#the-leaders-log",
)
NEWER_LOG = Rule(
    "the newer log",
    "the log whose last entry has the later term is newer; between equal terms, the longer log is newer",
    "§5.4.1",
    f"{_DETAILS_2B}#whose-log-is-newer",
)
REPLY_PROVES = Rule(
    "what a reply proves",
    "a reply proves only that the follower has the entries of that one request, whatever the leader has appended since",
    "Figure 2, Leaders; §5.3",
    f"{_DETAILS_2B}#what-a-reply-proves",
)
SAME_ENTRY = Rule(
    "Log Matching",
    "entries of the same index and term hold the same command, and all entries before them are the same",
    "§5.3, Figure 3",
    f"{_DETAILS_2B}#the-consistency-check",
)
LEADER_COMPLETENESS = Rule(
    "Leader Completeness",
    "what was committed in a term is in the log of every leader of a later term",
    "§5.4, Figure 3",
    f"{_DETAILS_2B}#whose-log-is-newer",
)
FAST_BACKUP = Rule(
    "fast backup",
    "after a refusal, the leader goes back a whole term at a time, not entry by entry",
    "the end of §5.3",
    f"{_DETAILS_2B}#backing-up-fast",
)
FEW_MESSAGES = Rule(
    "few messages",
    "entries that wait to be sent go out in one message, and nothing is sent again while a reply may still come",
    "lab limits",
    f"{_DETAILS_2B}#too-many-messages",
)

# --- persistence ---

SURVIVES = Rule(
    "what survives",
    "current_term, voted_for and the log are the same after a restart as before",
    "Figure 2, State; §5.2, §5.3",
    f"{_DETAILS_2C}#what-must-survive",
)
SAVE_FIRST = Rule(
    "save before you answer",
    "what a message promises is on the disk before the message leaves",
    "Figure 2, State",
    f"{_DETAILS_2C}#save-before-you-answer",
)
FAILED_SAVE = Rule(
    "a failed save",
    "a server whose save failed does not answer as if the save had succeeded",
    "Figure 2, State",
    f"{_DETAILS_2C}#when-the-disk-fails",
)

# --- snapshots ---

WHOLE_SNAPSHOT = Rule(
    "whole snapshots",
    "the snapshot that a service gets is one that a service has taken: every byte, in order, under the same index and term",
    "§7, Figure 13",
    f"{_DETAILS_2D}#chunks",
)
NEWER_SNAPSHOT = Rule(
    "newer snapshots",
    "a snapshot never takes a server back to an earlier index",
    "§7, Figure 13",
    f"{_DETAILS_2D}#old-snapshots",
)
KEEP_THE_REST = Rule(
    "what follows stays",
    "a server that has the snapshot's last entry keeps the entries after it",
    "Figure 13, 6; §7",
    f"{_DETAILS_2D}#what-follows-stays",
)
SNAPSHOT_FIRST = Rule(
    "the snapshot first",
    "after a restart the service gets the saved snapshot first, then the entries after it",
    "§7",
    f"{_DETAILS_2D}#after-a-restart",
)
LOG_IS_CUT = Rule(
    "the log is cut",
    "the log keeps no entries that a snapshot covers",
    "§7",
    f"{_DETAILS_2D}#the-log-is-cut",
)
CATCH_UP = Rule(
    "catching up",
    "a server that needs entries the leader has discarded gets the snapshot; any other server gets entries",
    "§7",
    f"{_DETAILS_2D}#who-gets-a-snapshot",
)

# --- membership ---

MEMBERS_COUNT = Rule(
    "members count",
    "only the servers of the latest configuration in the log vote and count; a configuration takes effect once appended",
    "§6; dissertation, 4.1",
    f"{_DETAILS_2E}#who-counts",
)
ONE_CHANGE = Rule(
    "one change at a time",
    "a configuration is committed before the next one is appended",
    "§6; dissertation, 4.1",
    f"{_DETAILS_2E}#one-change-at-a-time",
)
OWN_TERM_FIRST = Rule(
    "own term first",
    "a leader changes the membership once it has committed an entry of its own term, and not before",
    "the correction to dissertation, 4.1",
    f"{_DETAILS_2E}#an-entry-of-your-own-term-first",
)
JOINT_CONSENSUS = Rule(
    "joint consensus",
    "a change of more than one server goes through C_old,new, in which both sets vote",
    "§6, Figure 11",
    f"{_DETAILS_2E}#joint-consensus",
)
BOTH_MAJORITIES = Rule(
    "both majorities",
    "while there are two sets of members, elections and commits need a majority of each, counted separately",
    "§6",
    f"{_DETAILS_2E}#two-majorities",
)
LEARNERS = Rule(
    "learners",
    "a new server has no vote until it has caught up; if it never does, change_membership gives up and answers",
    "§6; dissertation, 4.2.1",
    f"{_DETAILS_2E}#learners",
)
CHANGE_ANSWERS = Rule(
    "what change_membership answers",
    "a change that cannot be made is refused, and a server that does not lead says who does",
    "lab contract; §6, §8",
    f"{_DETAILS_2E}#what-it-answers",
)
CONFIGURATION_STAYS = Rule(
    "the configuration stays",
    "a configuration comes and goes with its entry, and survives restarts and snapshots",
    "§6, §7; dissertation, 4.1, 5.1",
    f"{_DETAILS_2E}#the-configuration-stays",
)
MEMBERS_TOLD = Rule(
    "telling the service",
    "the service gets each committed configuration in log order, with everyone who votes under it",
    "lab contract",
    f"{_DETAILS_2E}#telling-the-service",
)
REMOVED_LEADER = Rule(
    "a removed leader",
    "a leader that is not in C_new leads until C_new is committed, without counting itself, and then steps down",
    "§6; dissertation, 4.2.2",
    f"{_DETAILS_2E}#a-leader-that-is-removed",
)
REMOVED_SERVER = Rule(
    "a removed server",
    "a removed server does not disturb the others, whether or not it knows that it was removed",
    "§6; dissertation, 4.2.3",
    f"{_DETAILS_2E}#a-server-that-was-removed",
)

# --- PreVote ---

PRE_VOTE_CHANGES_NOTHING = Rule(
    "a pre-vote changes nothing",
    "a pre-vote changes neither the term nor the vote, on the server that asks or on the one that answers",
    "dissertation, 9.6",
    f"{_DETAILS_2F}#a-pre-vote-changes-nothing",
)
WHO_GETS_A_PRE_VOTE = Rule(
    "who gets a pre-vote",
    "a server gets a pre-vote if its log and term are new enough and the voter hears no leader",
    "dissertation, 9.6, 4.2.3",
    f"{_DETAILS_2F}#who-gets-a-pre-vote",
)
NOT_DISTURBED = Rule(
    "an undisturbed leader",
    "a leader goes on leading while a majority hears it, even if some server returns or cannot hear it",
    "dissertation, 9.6, 4.2.3",
    f"{_DETAILS_2F}#nobody-disturbs-a-leader",
)
CHECK_QUORUM = Rule(
    "a leader without answers",
    "a leader steps down if no majority answers it for an election timeout",
    "dissertation, 6.2",
    f"{_DETAILS_2F}#a-leader-that-nobody-answers",
)
STILL_ELECTED = Rule(
    "a leader is still elected",
    "servers that can reach each other and are a majority elect a leader soon",
    "dissertation, 9.6; §5.2",
    f"{_DETAILS_2F}#somebody-is-still-elected",
)

# --- leadership transfer ---

TRANSFER_ANSWERS = Rule(
    "what transfer_leadership answers",
    "a transfer that cannot be made is refused, and a server that does not lead says who does",
    "lab contract; dissertation, 3.10",
    f"{_DETAILS_2G}#what-it-answers",
)
TRANSFER = Rule(
    "a transfer",
    "the server that the leader hands over to is elected at once, although all the others hear the old leader",
    "dissertation, 3.10",
    f"{_DETAILS_2G}#the-target-leads",
)
WHOLE_LOG_FIRST = Rule(
    "the whole log first",
    "a leader sends TimeoutNow only to a server that has acknowledged the leader's whole log",
    "dissertation, 3.10",
    f"{_DETAILS_2G}#the-whole-log-first",
)
NO_COMMANDS_MEANWHILE = Rule(
    "no commands meanwhile",
    "a leader takes no commands while it hands over, and takes them again once the transfer has failed",
    "dissertation, 3.10",
    f"{_DETAILS_2G}#no-commands-meanwhile",
)
WHO_STANDS = Rule(
    "who obeys TimeoutNow",
    "on TimeoutNow of its own or a newer term, a server with a vote starts an election at once; otherwise nothing changes",
    "dissertation, 3.10",
    f"{_DETAILS_2G}#who-stands",
)
ELECTION_ON_REQUEST = Rule(
    "an election on request",
    "only an election on TimeoutNow sets leadership_transfer in its requests; voters then vote although they hear a leader",
    "dissertation, 3.10, 4.2.3",
    f"{_DETAILS_2G}#an-election-on-request",
)

# --- clients ---

LINEARIZABLE = Rule(
    "linearizability",
    "it looks as if every operation happened at one moment between its call and its return",
    "§8; dissertation, 6.3",
    f"{_DETAILS_3A}#linearizable",
)
EXACTLY_ONCE = Rule(
    "exactly once",
    "an operation that returns was carried out once, however often the clerk had to ask",
    "§8; dissertation, 6.3",
    f"{_DETAILS_3A}#exactly-once",
)
PROGRESS = Rule(
    "progress",
    "an operation soon returns if a majority of the servers can reach each other and the clerk",
    "§8",
    f"{_DETAILS_3A}#progress",
)
ANSWERED_IN_TIME = Rule(
    "an answer in time",
    "a server answers every client_request within 2 s, whatever has become of its leadership",
    "dissertation, 6.2",
    f"{_DETAILS_3A}#answered-in-time",
)
STATUSES = Rule(
    "what a status promises",
    "ok means carried out; not_leader and try_again promise nothing",
    "§8",
    f"{_DETAILS_3A}#statuses",
)
SESSIONS = Rule(
    "sessions",
    "a service knows each client by its session, which begins with register and ends only when max_sessions is exceeded",
    "dissertation, 6.3",
    f"{_DETAILS_3A}#sessions",
)
UNKNOWN_ONLY_IF = Rule(
    "Unknown",
    "a clerk raises Unknown only if a server has answered no_session, so that nobody can know what became of the operation",
    "dissertation, 6.3",
    f"{_DETAILS_3A}#sessions",
)
CLERK_SERIALS = Rule(
    "one serial per operation",
    "a clerk repeats a request with the same serial, and gives the next operation a higher one",
    "§8; dissertation, 6.3",
    f"{_DETAILS_3A}#serials",
)
BAD_REQUESTS = Rule(
    "bad requests",
    "a request that nobody can understand is answered with bad_request, and harms nothing",
    "dissertation, 6.3",
    f"{_DETAILS_3A}#bad-requests",
)
SERVICE_SNAPSHOTS = Rule(
    "the service's snapshots",
    "a service takes snapshots of its whole state, so that Raft's saved state stays below 8 times max_state",
    "§7; dissertation, 6.3",
    f"{_DETAILS_3A}#snapshots-of-the-service",
)
CLIENT_COST = Rule(
    "the cost of an operation",
    "a quiet service needs about one request for each operation, and answers many in a second",
    "§8",
    f"{_DETAILS_3A}#cost",
)
APPLIED_STATE = Rule(
    "every server has the same state",
    "every server has carried out the same operations, and only those that a clerk asked for",
    "Figure 3, State Machine Safety; §8",
    f"{_DETAILS_3A}#applied-state",
)

# --- reads ---

READ_INDEX = Rule(
    "a read by index",
    "a leader with a committed entry of its own term notes its commit index; then a majority must answer new messages",
    "dissertation, 6.4",
    f"{_DETAILS_3B}#read-index",
)
LEASE = Rule(
    "leases",
    "a leader answers without a message only as long as no other server can have been elected",
    "dissertation, 6.4.1",
    f"{_DETAILS_3B}#leases",
)
SILENT_VOTERS = Rule(
    "voters keep silent",
    "a server that has answered a leader refuses votes for the shortest election timeout, even after a restart",
    "dissertation, 6.4.1, 4.2.3",
    f"{_DETAILS_3B}#voters-keep-silent",
)
HOLDERS = Rule(
    "leases at followers",
    "a follower answers reads by lease only as long as nothing is committed without it",
    "dissertation, 6.4.1; Moraru et al., Paxos Quorum Leases, 2014",
    f"{_DETAILS_3B}#leases-at-followers",
)
SESSION_READS = Rule(
    "reads of a session",
    "a read shows the state at the index that its reply names, and everything that its clerk has seen before",
    "dissertation, 6.4; §8",
    f"{_DETAILS_3B}#session",
)
SNAPSHOT_READS = Rule(
    "reads of a snapshot",
    "a read shows the whole state at one index; for one clerk, this index never goes back",
    "dissertation, 6.4",
    f"{_DETAILS_3B}#snapshot",
)
READ_COST = Rule(
    "the cost of a read",
    "a read by index needs no entry, a read by lease needs no message between servers, a session's read needs no leader",
    "dissertation, 6.4",
    f"{_DETAILS_3B}#what-each-read-costs",
)
