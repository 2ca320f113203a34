// Short names of messages and links, and the times at which each server must have restarted its election or heartbeat
// timer.

import { FIRST_CLERK, methodName, nameOf } from "./words.js";

const listOf = (value) => (Array.isArray(value) ? value : []);

/** A message in a few words: "AppendEntries, 2 entries", "vote granted". `answer`: the reply's event; null for a request. */
export function messageName(send, answer) {
  const name = methodName(send.method);
  if (answer) {
    const message = answer.message ?? {};
    if ("vote_granted" in message) return message.vote_granted ? "vote granted" : "vote refused";
    if ("success" in message) return `${name}: ${message.success ? "success" : "refused"}`;
    if (typeof message.status === "string") return `reply: ${message.status}`;
    return `reply to ${name}`;
  }
  if (send.method === "append_entries") {
    const count = listOf(send.message?.entries).length;
    return count === 0 ? "heartbeat" : count === 1 ? `${name}, 1 entry` : `${name}, ${count} entries`;
  }
  if (send.method === "client_request" && typeof send.message?.op === "string") return `client request: ${send.message.op}`;
  return name;
}

export const linkName = (one, other) => `${nameOf(one)}–${nameOf(other)}`;
export const isClerk = (number) => number >= FIRST_CLERK;

/** When each server last booted, heard from a leader, granted a vote, started an election or, as a leader, sent entries, a
 * heartbeat or a snapshot. */
export class Quiet {
  constructor(servers) {
    this.servers = servers;
    this.clear();
  }

  clear() {
    this.times = Array.from({ length: this.servers }, () => []);
    // By server: the term in which it last asked for votes, or "p" and the term for which it last asked for pre-votes.
    this.asked = Array.from({ length: this.servers }, () => -1);
    this.longest = 0.15; // seconds: the longest silence after which a server has started an election
    this.beat = 0.03; // seconds: the longest pause between two messages of a leader
  }

  add(event, send) {
    const { server } = event;
    if (!(server < this.servers)) return;
    const times = this.times[server];
    const since = times.length ? event.t - times.at(-1) : 0;
    const term = event.message?.term;
    const appends = event.method === "append_entries" || event.method === "install_snapshot";
    if (event.e === "boot") times.push(event.t);
    else if (event.e === "answer") {
      const granted = event.method === "request_vote" && event.message?.vote_granted === true;
      if (granted || (appends && term !== undefined && term === send?.message?.term)) times.push(event.t);
    } else if (event.e === "send" && appends) {
      if (since > 0.001) this.beat = Math.max(this.beat, Math.min(since, 1));
      times.push(event.t);
    } else if (event.e === "send" && (event.method === "request_vote" || event.method === "pre_vote")) {
      const round = event.method === "pre_vote" ? `p${event.message?.term}` : term;
      if (this.asked[server] === round && since < 0.02) return;
      if (event.method === "pre_vote" || this.asked[server] !== `p${term}`) this.longest = Math.max(this.longest,
      Math.min(since, 5)); this.asked[server] = round; times.push(event.t);
    }
  }

  /** How long before `time` the latest of the server's `times` was, in seconds. */
  at(server, time) {
    const times = this.times[server];
    let low = 0;
    let high = times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] > time) high = middle;
      else low = middle + 1;
    }
    return low ? time - times[low - 1] : 0;
  }
}
