// The servers' states at any moment, derived from the messages in the trace.
//
// A trace contains no states, only messages and the test's calls. So the states are derived by the rules of Figures 2 and
// 13, and from what a server *said*, not from what it should have done. A server has a term once it answers with that term
// or gets it in a reply, and it has entries once it sends, acknowledges or applies them. All events go through `step`, one at
// a time. The states are saved every `EVERY` events, so that few steps are needed to compute the states at any moment.

export const EVERY = 256;

// Stands for an entry that must exist but was in no message of this page, because it was sent before the part of the trace
// that is shown, or because a snapshot covers it.
const UNKNOWN = Object.freeze({ term: null, command: undefined });
// For this many seconds after it has received a higher term, a server may still send requests of its old term. A server
// that sends one later is taken to ignore the higher term.
const STRAY = 0.05;

const listOf = (value) => (Array.isArray(value) ? value : []);
const isIndex = (value) => Number.isInteger(value) && value >= 0;

function fresh(server) {
  return {
    server,
    incarnation: 0, up: false, paused: false,
    role: "follower", term: 0, vote: null, leader: null,
    // The server's term before it received a higher term, and when it received the higher term: see `stillLeads`.
    ownTerm: 0, heardAt: 0,
    base: 0, baseTerm: null, entries: [], shared: false,
    commit: 0, applied: 0,
  };
}

/** A server's role in words. */
export const roleOf = (s) => (!s.up ? (s.incarnation ? "down" : "not started") : s.paused ? `paused ${s.role}` : s.role);

export const lastIndex = (s) => s.base + s.entries.length;

/** The entry at an index: null if a snapshot covers it, or if it is after the last entry. */
export const entryAt = (s, index) => s.entries[index - s.base - 1] ?? null;

// Saved states share their entries with the current state, so copy the entries before changing them.
function own(s) {
  if (s.shared) {
    s.entries = s.entries.slice();
    s.shared = false;
  }
}

/** Record that the server has this entry at this index. Only a conflict removes entries: the entry at this index and all
 * entries after it (Figure 2, AppendEntries 3 and 4). */
function put(s, index, term, command) {
  if (!isIndex(index) || index <= s.base || index > s.base + s.entries.length + 100_000) return;
  const known = entryAt(s, index);
  if (known && known.term === term && (known.command !== undefined || command === undefined)) return;
  own(s);
  const place = index - s.base - 1;
  while (s.entries.length < place) s.entries.push(UNKNOWN);
  if (known && known.term !== null && known.term !== term) s.entries.length = place;
  s.entries[place] = { term, command };
}

function putAll(s, prev, prevTerm, entries) {
  if (!isIndex(prev)) return;
  if (prev > 0) put(s, prev, prevTerm, undefined);
  entries.forEach((entry, offset) => put(s, prev + 1 + offset, entry?.term ?? null, entry?.command ?? null));
}

/** Record that a snapshot covers everything up to `index`. Later entries stay if the log has the same entry at `index`
 * (Figure 13, 6). `agrees`: the log is known to have it. */
function coverTo(s, index, term, agrees) {
  if (!isIndex(index) || index <= s.base) return;
  const known = entryAt(s, index);
  const keep = known && (agrees || known.term === term || known.term === null);
  s.entries = keep ? s.entries.slice(index - s.base) : [];
  s.shared = false;
  s.base = index;
  s.baseTerm = term ?? known?.term ?? null;
}

function enter(s, term, role) {
  if (term > s.term) s.vote = s.leader = null;
  s.term = s.ownTerm = term;
  s.role = role;
}

/** Figure 2, All Servers: a server that sees a higher term becomes a follower. */
function follow(s, term) {
  if (term > s.term) enter(s, term, "follower");
}

/** Whether the server ignores a higher term that it has received, because it still sends requests of its old term. */
const stillLeads = (s, term, now) => term === s.ownTerm && s.ownTerm < s.term && now > s.heardAt + STRAY;

function sent(s, event) {
  const message = event.message;
  const term = message?.term;
  if (!Number.isInteger(term) || (term < s.term && !stillLeads(s, term, event.t))) return;
  switch (event.method) {
    case "request_vote":
      if (term === s.term && s.role === "leader") return;
      enter(s, term, "candidate");
      s.vote = s.server;
      if (isIndex(message.last_log_index) && message.last_log_index >= s.base) {
        if (message.last_log_index < lastIndex(s)) {
          own(s);
          s.entries.length = message.last_log_index - s.base;
        }
        put(s, message.last_log_index, message.last_log_term ?? null, undefined);
      }
      return;
    case "append_entries":
      enter(s, term, "leader");
      s.leader = s.server;
      putAll(s, message.prev_log_index, message.prev_log_term ?? null, listOf(message.entries));
      if (isIndex(message.leader_commit)) s.commit = Math.max(s.commit, message.leader_commit);
      return;
    case "install_snapshot":
      enter(s, term, "leader");
      s.leader = s.server;
      coverTo(s, message.last_included_index, message.last_included_term, true);
      s.commit = Math.max(s.commit, s.base);
      return;
    default: // PreVote (2F) and TimeoutNow (2G) change nothing here, and other methods are unknown
  }
}

function answered(s, event, asked) {
  const message = event.message;
  if (event.method === "pre_vote" || !Number.isInteger(message?.term)) return;
  follow(s, message.term);
  const request = asked?.message;
  if (!request || request.term !== message.term || message.term !== s.term) return;
  if (event.method === "request_vote") {
    if (message.vote_granted) s.vote = event.to;
    return;
  }
  if (event.method !== "append_entries" && event.method !== "install_snapshot") return;
  if (s.role === "candidate") s.role = "follower";
  s.leader = event.to;
  if (event.method === "append_entries" && message.success) {
    const entries = listOf(request.entries);
    putAll(s, request.prev_log_index, request.prev_log_term ?? null, entries);
    // Entries after the last one in this message may come from an old leader, so they do not count as committed.
    const proved = Math.min(request.leader_commit ?? 0, request.prev_log_index + entries.length);
    if (isIndex(proved)) s.commit = Math.max(s.commit, proved);
  }
}

function heard(s, event) {
  const term = event.message?.term;
  if (event.method === "pre_vote" || !Number.isInteger(term) || term <= s.term) return;
  const before = s.ownTerm;
  enter(s, term, "follower");
  s.ownTerm = before;
  s.heardAt = event.t;
}

function applied(s, message) {
  if (!isIndex(message?.index)) return;
  if (message.kind === "snapshot") coverTo(s, message.index, message.term, false);
  else put(s, message.index, message.term, message.command);
  s.applied = message.index;
  s.commit = Math.max(s.commit, message.index);
}

function returned(s, event, call) {
  const result = event.message;
  if (event.method === "start" && listOf(result)[2] === true && Number.isInteger(result[1]) && result[1] >= s.term) {
    enter(s, result[1], "leader");
    s.leader = s.server;
    put(s, result[0], result[1], call?.message?.[0] ?? null);
  } else if (event.method === "get_state" && Number.isInteger(listOf(result)[0])) {
    // The answer may be out of date, so ignore lower terms.
    if (result[1] === true && result[0] >= s.term) {
      enter(s, result[0], "leader");
      s.leader = s.server;
    } else follow(s, result[0]);
  } else if (event.method === "snapshot") {
    const index = call?.message?.[0];
    if (isIndex(index) && index <= s.applied) coverTo(s, index, entryAt(s, index)?.term, true);
  }
}

/** Update the states by one event. `asked` returns the request (or the test's call) that an event belongs to. */
export function step(states, event, asked) {
  const s = states[event.server];
  if (!s) return;
  switch (event.e) {
    case "boot":
      Object.assign(s, { up: true, paused: false, incarnation: event.incarnation, role: "follower", leader: null, commit: s.base, applied: 0 });
      return;
    case "crash":
      // The log, the term and the vote are on disk. Everything else is lost.
      Object.assign(s, { up: false, paused: false, role: "follower", leader: null, commit: 0, applied: 0 });
      return;
    case "pause":
    case "resume":
      s.paused = event.e === "pause";
      return;
    case "send":
      return sent(s, event);
    case "answer":
      return answered(s, event, asked(event));
    case "reply":
      return heard(s, event);
    case "apply":
      return applied(s, event.message);
    case "result":
      return returned(s, event, asked(event));
    default:
  }
}

/** The servers that the test plays. They send messages, but no `Raft()` has returned there and the test calls no method of
 * theirs. */
function scripted(events) {
  const spoke = new Set();
  const real = new Set();
  for (const event of events) {
    if (event.e === "send" || event.e === "answer") spoke.add(event.server);
    else if (event.e !== "boot" && event.e !== "arrive" && event.e !== "reply") real.add(event.server);
  }
  return new Set([...spoke].filter((server) => real.size && !real.has(server)));
}

/** Every term except 0 that a message or an entry contains. */
function termsOf(events) {
  const terms = new Set();
  for (const { message } of events) {
    if (Number.isInteger(message?.term)) terms.add(message.term);
    if (Array.isArray(message?.entries)) for (const entry of message.entries) terms.add(entry?.term);
  }
  return new Set([...terms].filter((term) => Number.isInteger(term) && term > 0));
}

export class Model {
  /** `events` are in order. `before` are earlier events, from which the servers' states at the beginning are derived. */
  constructor(servers, events, before = []) {
    this.events = [];
    this.sends = new Map();
    this.calls = new Map();
    this.results = new Map();
    for (const event of before) if (event.e === "send") this.sends.set(event.id, event);
    this.scripted = scripted(events);
    this.terms = termsOf(before.concat(events));
    this.asked = (event) => (event.e === "result" ? this.calls : this.sends).get(event.id);
    this.spans = Array.from({ length: servers }, () => []);
    this.checkpoints = [];
    this.last = Array.from({ length: servers }, (_, server) => fresh(server)); // the states after the last event
    for (const event of before) step(this.last, event, this.asked);
    this.last.forEach((s) => this.#span(s, 0));
    this.#keep();
    this.#goBack(0);
    for (const event of events) this.add(event);
  }

  /** Add an event at the end. */
  add(event) {
    if (event.e === "send") this.sends.set(event.id, event);
    else if (event.e === "call") this.calls.set(event.id, event);
    else if (event.e === "result") this.results.set(event.id, event);
    step(this.last, event, this.asked);
    const s = this.last[event.server];
    if (s) this.#span(s, this.events.length);
    if (this.events.push(event) % EVERY === 0) this.#keep();
  }

  /** Forget all events but the first `count`. */
  cut(count) {
    if (count >= this.events.length) return;
    const states = this.at(count - 1).map((s) => ({ ...s, shared: true }));
    this.events.length = count;
    this.checkpoints.length = Math.floor(count / EVERY) + 1;
    for (const spans of this.spans) while (spans.length > 1 && spans.at(-1).from >= count) spans.pop();
    this.last = states;
    this.#goBack(this.checkpoints.length - 1);
  }

  /** The states of all servers just after the event with this index (-1: before the first event). The next call changes the
   * objects that this call returned. */
  at(index) {
    const kept = Math.min(Math.floor((index + 1) / EVERY), this.checkpoints.length - 1);
    if (index < this.index || kept * EVERY - 1 > this.index) this.#goBack(kept);
    while (this.index < index) step(this.states, this.events[++this.index], this.asked);
    return this.states;
  }

  #goBack(kept) {
    this.states = this.checkpoints[kept].map((s) => ({ ...s }));
    this.index = kept * EVERY - 1;
  }

  #keep() {
    for (const s of this.last) s.shared = true;
    this.checkpoints.push(this.last.map((s) => ({ ...s })));
  }

  /** Begin a new span if the server's role or term has changed. Lanes are drawn from these spans. */
  #span(s, index) {
    const spans = this.spans[s.server];
    const last = spans.at(-1);
    const role = !s.up ? "down" : s.role;
    if (last && last.role === role && last.term === s.term && last.paused === s.paused) return;
    spans.push({ from: index, role, term: s.term, paused: s.paused });
  }
}
