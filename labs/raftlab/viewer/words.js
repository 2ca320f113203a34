// The text of events. `sentence` is raftlab's one-line notation, which trace.py implements in Python; a test compares the
// two. `label` is short enough for a place next to an arrow.

const NAMES = {
  request_vote: "RequestVote",
  append_entries: "AppendEntries",
  install_snapshot: "InstallSnapshot",
  pre_vote: "PreVote",
  timeout_now: "TimeoutNow",
  read_index_of: "ReadIndex",
  lease_of: "Lease",
  client_request: "ClientRequest",
};
// The number of clerk C0; servers have smaller ones (participants.py).
export const FIRST_CLERK = 100;
// The fields that contain bytes. In a trace they are in base64.
const BYTES = new Set(["data", "snapshot"]);

export const nameOf = (number) => (number >= FIRST_CLERK ? `C${number - FIRST_CLERK}` : `S${number}`);
export const methodName = (method) => NAMES[method] ?? method;
export const seconds = (t) => t.toFixed(3);

function quoted(text) {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const named = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", [quote]: "\\" + quote };
  // eslint-disable-next-line no-control-regex
  const shown = text.replace(/[\x00-\x1f\x7f-\xa0\xad\\'"]/g, (one) =>
    named[one] ?? (/['"]/.test(one) ? one : "\\x" + one.charCodeAt(0).toString(16).padStart(2, "0")));
  return quote + shown + quote;
}

/** A value as Python prints it. */
export function shown(value) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "string") return quoted(value);
  if (Array.isArray(value)) return `[${value.map(shown).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, held]) => `${quoted(key)}: ${shown(held)}`).join(", ")}}`;
  }
  return String(value);
}

const size = (base64) => Math.floor((base64.length * 3) / 4) - (base64.match(/=+$/)?.[0].length ?? 0);

export function field(name, value) {
  return BYTES.has(name) && typeof value === "string" ? `<${size(value)} bytes>` : shown(value);
}

const cut = (text) => ([...text].length <= 60 ? text : [...text].slice(0, 57).join("") + "...");
const isPlain = (message) => message !== null && typeof message === "object" && !Array.isArray(message);

/** A command of lab 3 as sentences name it, and its session and serial; empty for any other command. */
function operation(command) {
  if (!isPlain(command) || !["op", "key", "client_id", "serial"].every((name) => name in command)) return "";
  const { op, key, expected, value, client_id: session, serial } = command;
  const given = [key, expected, value].filter((each) => each !== null && each !== undefined);
  const name = typeof op === "string" ? op : shown(op);
  return `${name}(${given.map((each) => cut(shown(each))).join(", ")}) client_id=${cut(shown(session))} serial=${cut(shown(serial))}`;
}

/** The fields of a message, without those that are None. */
function fields(message) {
  if (!isPlain(message)) return shown(message);
  return Object.entries(message)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}=${(name === "command" && operation(value)) || cut(field(name, value))}`)
    .join(" ");
}

function request(message) {
  if (!isPlain(message)) return shown(message);
  const { candidate_id: _candidate, leader_id: _leader, ...rest } = message;
  const parts = [];
  const take = (name) => {
    const value = rest[name];
    delete rest[name];
    return value === undefined ? "?" : shown(value);
  };
  if ("term" in rest) parts.push(`term=${take("term")}`);
  if ("prev_log_index" in rest) parts.push(`prev=(${take("prev_log_index")},${take("prev_log_term")})`);
  if ("last_log_index" in rest) parts.push(`last=(${take("last_log_index")},${take("last_log_term")})`);
  if (Array.isArray(rest.entries)) {
    parts.push(`entries=${rest.entries.length}`);
    delete rest.entries;
  }
  if ("leader_commit" in rest) parts.push(`commit=${take("leader_commit")}`);
  if (rest.leadership_transfer === false) delete rest.leadership_transfer; // the flag has a meaning only if it is set (2G)
  return [...parts, fields(rest)].filter(Boolean).join(" ");
}

/** The result of a clerk's operation in words. */
function outcome([how, value]) {
  return { unknown: "raises Unknown", refused: "raises ValueError" }[how] ?? `returns ${shown(value)}`;
}

/** One event in raftlab's notation, without the time. */
export function sentence(event) {
  const me = nameOf(event.server);
  switch (event.e) {
    case "send":
      return `${me}→${nameOf(event.to)} ${methodName(event.method)} ${request(event.message)}`;
    case "arrive":
      return `${me} receives ${methodName(event.method)} #${event.id} of ${nameOf(event.from)}`;
    case "answer":
      return `${me}⇢${nameOf(event.to)} ${methodName(event.method)} answers ${fields(event.message)}`;
    case "reply": {
      const what = event.message === null ? "no reply" : `has the reply ${fields(event.message)}`;
      return `${me} ${what} of ${nameOf(event.from)} to its ${methodName(event.method)}`;
    }
    case "lost":
      return `${event.leg} #${event.id} lost: ${event.why}`;
    case "hold":
      return `${event.leg} #${event.id} is held back by the test`;
    case "release":
      return `${event.leg} #${event.id} is let go`;
    case "boot":
      return `${me} ${event.incarnation === 1 ? "starts" : "restarts"}`;
    case "crash":
      return `${me} crashes`;
    case "pause":
      return `${me} is paused`;
    case "resume":
      return `${me} goes on`;
    case "ready":
      return `${me} is ready`;
    case "net":
      return `network: ${event.text}`;
    case "note":
      return `test: ${event.text}`;
    case "save": {
      const more = event.snapshot_bytes ? ` and a snapshot of ${event.snapshot_bytes}` : "";
      return `${me} saves ${event.state_bytes} bytes${more}`;
    }
    case "snapshot":
      return `${me}'s service takes a snapshot up to ${event.index}, of ${event.bytes} bytes`;
    case "apply":
      return `${me} applies ${fields(event.message)}`;
    case "call":
      return `${me}.${event.method}(${[].concat(event.message).map(shown).join(", ")})`;
    case "result":
      if (event.server >= FIRST_CLERK && Array.isArray(event.message) && event.message.length === 2) {
        return `${me}.${event.method} ${outcome(event.message)}`;
      }
      return `${me}.${event.method} returns ${shown(event.message)}`;
    case "line":
      return `${me} [${event.topic}] ${event.text}`;
    case "rate":
      return `${me}'s clock now runs at ${Number.isInteger(event.rate) ? `${event.rate}.0` : event.rate}`;
    case "advice":
    case "fault":
      return `${me} ${event.e}: ${event.text}${event.where ? ` at ${event.where}` : ""}`;
    default: {
      const { t: _t, e: kind, ...rest } = event;
      return `${kind} ${Object.values(rest).map((value) => (typeof value === "string" ? value : shown(value))).join(" ")}`;
    }
  }
}

function requestLabel(event, roomy) {
  const message = event.message ?? {};
  const name = methodName(event.method);
  const term = message.term === undefined ? "" : ` T${message.term}`;
  const entries = Array.isArray(message.entries) ? message.entries : [];
  if (event.method === "append_entries") {
    const first = message.prev_log_index + 1;
    const commit = roomy ? `  commit ${message.leader_commit}` : "";
    if (!entries.length) return roomy ? `heartbeat${term}  prev (${first - 1},${message.prev_log_term})${commit}` : `heartbeat${term}`;
    const range = entries.length === 1 ? `${first}` : `${first}–${first + entries.length - 1}`;
    return `${roomy ? name : "Append"}${term}  ${range}${roomy ? ` after (${first - 1},${message.prev_log_term})` : ""}${commit}`;
  }
  if (event.method === "install_snapshot") {
    return `${roomy ? name : "Snapshot"}${term}  to ${message.last_included_index}${roomy ? ` from byte ${message.offset}` : ""}`;
  }
  if (event.method === "client_request") {
    const args = [message.key, message.expected, message.value].filter((value) => value !== null && value !== undefined);
    const read = message.read && message.read !== "log" ? ` by ${message.read}` : "";
    const given = message.op === "register" ? "" : `(${args.map(shown).join(", ")})`;
    return `${message.op}${given}${read}${roomy && message.op !== "register" ? `  serial ${message.serial}` : ""}`;
  }
  const last = roomy && message.last_log_index !== undefined ? `  last (${message.last_log_index},${message.last_log_term})` : "";
  return `${name}${term}${last}`;
}

function answerLabel(event) {
  const message = event.message;
  if (!isPlain(message)) return "reply";
  const term = message.term === undefined ? "" : ` T${message.term}`;
  if ("vote_granted" in message) return (message.vote_granted ? "yes" : "no") + term;
  if ("success" in message) return (message.success ? "ok" : "refused") + term;
  if ("status" in message) return message.status + (message.value === null || message.value === undefined ? "" : ` ${shown(message.value)}`);
  return `reply${term}`;
}

/** The text next to an event in the picture; "" if the event's mark is enough. The text of a call also contains `result`. */
export function label(event, roomy, result) {
  switch (event.e) {
    case "send":
      return requestLabel(event, roomy);
    case "answer":
      return answerLabel(event);
    case "reply":
      return event.message === null ? `no reply of ${nameOf(event.from)}` : "";
    case "boot":
      return event.incarnation === 1 ? "starts" : "restarts";
    case "crash":
      return "crashes";
    case "pause":
      return "paused";
    case "resume":
      return "goes on";
    case "rate":
      return `clock at ${event.rate}`;
    case "snapshot":
      return `snapshot to ${event.index}`;
    case "save":
      return event.snapshot_bytes ? `saves ${event.state_bytes} B + snapshot` : `saves ${event.state_bytes} B`;
    case "apply": {
      const message = event.message ?? {};
      if (message.kind === "snapshot") return `applies snapshot to ${message.index}`;
      const what = message.kind === undefined || message.kind === "command" ? shown(message.command) : message.kind;
      return `applies ${message.index}: ${what}`;
    }
    case "call": {
      const args = event.method === "snapshot" ? event.message?.[0] : [].concat(event.message).map(shown).join(", ");
      if (event.server >= FIRST_CLERK) return `${event.method}(${args})${result ? ` ${outcome(result)}` : ""}`;
      const returns = result === undefined || result === null ? "" : ` → ${[].concat(result).map(shown).join(", ")}`;
      return `${event.method}(${args})${returns}`;
    }
    case "line":
      return `${event.topic}: ${event.text}`;
    case "net":
    case "note":
      return event.text;
    case "advice":
    case "fault":
      return `${event.e}: ${event.text}`;
    default:
      return "";
  }
}
