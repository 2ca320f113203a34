// The layout of the picture: which events are shown, which arrows connect them, and where on the page each event is.

import { FIRST_CLERK, sentence } from "./words.js";

/** The kinds of events that can be hidden. All others (crashes, cuts, the test's steps, advice, faults) are always shown. */
export const KINDS = [
  ["clients", "Clients", "ClientRequest, ReadIndex and Lease"],
  ["votes", "Votes", "RequestVote, PreVote and TimeoutNow"],
  ["entries", "Entries", "AppendEntries with entries, and InstallSnapshot"],
  ["heartbeats", "Heartbeats", "AppendEntries without entries"],
  ["requests", "Requests", "requests of every method"],
  ["replies", "Replies", "replies of every method"],
  ["silence", "No reply", "calls that returned None"],
  ["lines", "Log lines", "what your code logged or printed"],
  ["applies", "Applies", "apply_ch.put"],
  ["saves", "Saves", "persister.save"],
  ["commands", "Commands", "start(), snapshot() and other calls of the test"],
  ["refused", "Refused", "calls of start() that a server refused because it does not lead"],
  ["states", "get_state", "the test's calls of get_state(), which are frequent"],
];
export const HIDDEN_AT_FIRST = ["refused", "states"];
const KIND = Object.fromEntries(KINDS.map(([name], number) => [name, 1 << number]));

const LANE_KINDS = { line: KIND.lines, apply: KIND.applies, save: KIND.saves, snapshot: KIND.saves };
// The height of an event, in pixels. Events that have only a mark and no label get less space.
const TALL = 16;
const LOW = 6;
const CLOSE = 3;
const SERIES = 5;
// The distance between two rows grows with the time between them, up to a limit, so that quiet periods are compressed.
const STRETCH = 120; // pixels per second
const MOST = 34;

const SCALE = 3000; // pixels per second when time is to scale
const TALLEST = 15e6;

export function messageKind(send) {
  if (!send) return 0;
  if (["client_request", "read_index_of", "lease_of"].includes(send.method)) return KIND.clients;
  if (["request_vote", "pre_vote", "timeout_now"].includes(send.method)) return KIND.votes;
  if (send.method === "append_entries" && !send.message?.entries?.length) return KIND.heartbeats;
  return KIND.entries;
}

export class Scene {
  /** `history`: the order of the clerks' operations that history.py computed; null if there is none. */
  constructor(servers, events, model, clerks = 0, history = null) {
    this.servers = servers;
    this.clerks = clerks;
    this.lanes = servers + clerks;
    this.events = events;
    this.asked = model.asked;
    this.results = model.results;
    const count = events.length;
    // Times may decrease in the file. Here they must not, because they are searched by bisection.
    this.times = new Float64Array(count);
    this.needs = new Uint16Array(count); // the event is shown only if all these kinds are switched on
    this.one = new Int16Array(count).fill(-1); // the servers that the event concerns, or -1
    this.other = new Int16Array(count).fill(-1);
    this.counts = Object.fromEntries(KINDS.map(([name]) => [name, 0]));
    this.arrowOf = new Map(); // event number → arrow
    this.y = new Float64Array(count);
    let latest = -Infinity;
    events.forEach((event, index) => {
      this.times[index] = latest = Math.max(latest, event.t);
      this.#classify(event, index);
    });
    this.arrows = makeArrows(events, this.asked, this.arrowOf);
    this.operations = makeOperations(events);
    this.orders = placeOrders(this.operations, history);
    this.texts = null;
    this.rows = new Int32Array(0);
    this.shown = new Uint8Array(count);
    this.shownArrows = [];
  }

  /** The place of a participant's lane: servers first, then clerks. */
  laneOf(number) {
    return number >= FIRST_CLERK ? this.servers + number - FIRST_CLERK : number;
  }

  #classify(event, index) {
    let needs = 0;
    if ("server" in event) this.one[index] = event.server;
    if ("id" in event && event.e !== "call" && event.e !== "result") {
      const send = this.asked(event);
      needs = messageKind(send);
      if (this.one[index] < 0 && send) this.one[index] = send.server;
      this.other[index] = event.to ?? event.from ?? send?.to ?? -1;
      if (event.e === "reply" && event.message === null) needs |= KIND.silence;
      else needs |= event.e === "answer" || event.e === "reply" || event.leg === "reply" ? KIND.replies : KIND.requests;
    } else if (event.e === "call" || event.e === "result") {
      const result = this.results.get(event.id)?.message;
      const refused = event.method === "start" && Array.isArray(result) && result[2] === false;
      const asks = event.method === "get_state" || event.method === "status";
      needs = asks ? KIND.states : refused ? KIND.refused : KIND.commands;
    } else if (event.e === "ready") needs = KIND.states;
    else needs = LANE_KINDS[event.e] ?? 0;
    this.needs[index] = needs;
    for (const [name] of KINDS) if (needs & KIND[name]) this.counts[name]++;
  }

  /** The event in words, in lower case, for searching. The texts are computed at the first search. */
  text(index) {
    this.texts ??= this.events.map((event) => sentence(event).toLowerCase());
    return this.texts[index];
  }

  matches(query) {
    const wanted = query.trim().toLowerCase();
    const found = [];
    if (wanted) for (let index = 0; index < this.events.length; index++) if (this.text(index).includes(wanted)) found.push(index);
    return found;
  }

  /** Choose what is shown: `kinds` by name, and `servers` as a set (empty: all). If `only` is given, no other events are
   * shown. */
  filter(kinds, servers, only) {
    let mask = 0;
    for (const name of kinds) mask |= KIND[name];
    const { needs, one, other, shown } = this;
    const count = this.events.length;
    if (only) {
      shown.fill(0);
      for (const index of only) shown[index] = 1;
    } else shown.fill(1);
    const rows = [];
    for (let index = 0; index < count; index++) {
      const touches = !servers.size || one[index] < 0 || servers.has(one[index]) || servers.has(other[index]);
      if (shown[index] && (needs[index] & ~mask) === 0 && touches) rows.push(index);
      else shown[index] = 0;
    }
    this.rows = Int32Array.from(rows);
    this.shownArrows = this.arrows.filter((arrow) => shown[arrow.start] || (arrow.end >= 0 && shown[arrow.end]));
  }

  /** Compute the place of every event. `spacing`: "event" (a row for each event, quiet periods compressed) or "time" (to
   * scale). */
  layout(spacing, zoom) {
    const { y, times, shown, events } = this;
    const count = events.length;
    const start = count ? times[0] : 0;
    this.#series();
    // Browsers cannot scroll a picture that is taller than TALLEST.
    const scale = Math.min(SCALE * zoom, TALLEST / Math.max(1e-9, count ? times[count - 1] - start : 0));
    let at = 0;
    let before = start; // the time of the previous shown event
    for (let index = 0; index < count; index++) {
      if (spacing === "time") at = (times[index] - start) * scale;
      else if (shown[index]) {
        const gap = (times[index] - before) * STRETCH;
        before = times[index];
        const least = this.#room(events[index], index);
        at += Math.min(MOST, Math.max(least, gap)) * zoom;
      }
      y[index] = at;
    }
    this.height = at;
    this.#chunks();
  }

  // A server that catches up has many applies or calls in a row. The label of the first one describes all of them, and the
  // others get little space.
  #series() {
    this.seriesOf = new Map(); // the first event of a series → its last one; every other event of the series → -1
    const { rows, events } = this;
    let members = [];
    let between = []; // events that belong to a call: its saves and its result
    const close = () => {
      if (members.length >= SERIES) {
        for (const index of [...members, ...between]) this.seriesOf.set(index, -1);
        this.seriesOf.set(members[0], members.at(-1));
      }
      members = [];
      between = [];
    };
    for (const index of rows) {
      const event = events[index];
      const first = events[members[0]];
      const counts = event.e === "call" || (event.e === "apply" && event.message?.kind !== "snapshot");
      if (first?.e === "call" && event.server === first.server && (event.e === "result" || event.e === "save")) {
        between.push(index);
        continue;
      }
      if (!counts || (first && (first.e !== event.e || first.server !== event.server || first.method !== event.method))) close();
      if (counts) members.push(index);
    }
    close();
  }

  #room(event, index) {
    if (this.seriesOf.get(index) === -1) return CLOSE;
    if (event.e === "arrive" || event.e === "ready" || event.e === "result" || event.e === "lost" || event.e === "hold" || event.e === "release") return LOW;
    if (event.e === "reply" && event.message !== null) return LOW;
    return this.needs[index] & KIND.heartbeats ? LOW + 2 : TALL;
  }

  // Arrows are sorted by their starts. For each chunk of arrows, the furthest end is stored, so that long arrows are found
  // quickly.
  #chunks() {
    this.furthest = [];
    this.shownArrows.forEach((arrow, number) => {
      const end = this.arrowEnd(arrow);
      const chunk = number >> 6;
      this.furthest[chunk] = Math.max(this.furthest[chunk] ?? -1, end);
    });
  }

  arrowEnd(arrow) {
    const last = Math.max(arrow.end, arrow.hold, arrow.release, arrow.start);
    return this.y[last] + (arrow.end < 0 ? 30 : 0);
  }

  *arrowsBetween(top, bottom) {
    const { shownArrows, y, furthest } = this;
    for (let chunk = 0; chunk < furthest.length; chunk++) {
      const from = chunk << 6;
      if (y[shownArrows[from].start] > bottom) return;
      if (furthest[chunk] < top) continue;
      const to = Math.min(from + 64, shownArrows.length);
      for (let number = from; number < to; number++) {
        const arrow = shownArrows[number];
        if (y[arrow.start] > bottom) return;
        if (this.arrowEnd(arrow) >= top) yield arrow;
      }
    }
  }

  /** The first shown row at or below `at`, as an index of `rows`. */
  rowAt(at) {
    return search(this.rows.length, (place) => this.y[this.rows[place]] >= at);
  }

  /** The last shown event at or before a time; the first one if there is none. */
  shownAt(time) {
    const { rows, times } = this;
    const place = search(rows.length, (at) => times[rows[at]] > time) - 1;
    return rows.length ? rows[Math.max(0, place)] : this.eventAt(time);
  }

  /** The last event at or before a time (-1: none). */
  eventAt(time) {
    return search(this.events.length, (index) => this.times[index] > time) - 1;
  }

  /** The next shown event after `index` (or before it), of one server if given; null if there is none. */
  next(index, direction, server = null) {
    const { rows } = this;
    let place = search(rows.length, (at) => rows[at] >= index + (direction > 0 ? 1 : 0));
    if (direction < 0) place--;
    while (place >= 0 && place < rows.length) {
      const found = rows[place];
      if (server === null || this.one[found] === server) return found;
      place += direction;
    }
    return null;
  }
}

/** The first number below `count` for which `holds` is true; `count` if there is none. If `holds` is true for a number,
 * it must be true for all later numbers, too. */
export function search(count, holds) {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The operations of clerks, by the number of the call. Each lasts from event `start` to event `end` (-1: it never
 * returned). */
function makeOperations(events) {
  const operations = new Map();
  events.forEach((event, index) => {
    if (event.server === undefined || event.server < FIRST_CLERK) return;
    if (event.e === "call") operations.set(event.id, { clerk: event.server, start: index, end: -1, unplaced: false });
    else if (event.e === "result" && operations.has(event.id)) operations.get(event.id).end = index;
  });
  return operations;
}

/** The orders that explain the results, as lists of operations. Also marks the operations that have no place. */
function placeOrders(operations, history) {
  for (const call of history?.unplaced ?? []) if (operations.has(call)) operations.get(call).unplaced = true;
  return (history?.orders ?? []).map((calls) => calls.map((call) => operations.get(call)).filter(Boolean));
}

/** An arrow for each message, from event `start` to event `end` (-1: unknown), with the fate of the message.
 *
 *  `fate`: "arrived", "lost", or "unused" (a copy that was not used, or a message that is still in flight). `died`: the
 *  event `lost` of a message that had arrived, but whose receiver crashed before it answered. */
function makeArrows(events, asked, arrowOf) {
  const arrows = [];
  const waiting = new Map(); // id → answers that have not arrived yet
  const first = new Map(); // id → the request's first arrow
  const make = (leg, id, start, from, to, send) => {
    const arrow = { leg, id, start, end: -1, from, to, fate: "unused", hold: -1, release: -1, kind: messageKind(send), send };
    arrows.push(arrow);
    if (start >= 0 && !arrowOf.has(start)) arrowOf.set(start, arrow);
    return arrow;
  };
  const finish = (arrow, end, fate) => {
    arrow.end = end;
    arrow.fate = fate;
    arrowOf.set(end, arrow);
  };
  const mark = (index, event) => {
    const arrow = event.leg === "request" ? first.get(event.id) : (waiting.get(event.id) ?? [])[0];
    if (!arrow) return;
    arrowOf.set(index, arrow);
    arrow[event.e] = index;
  };
  events.forEach((event, index) => {
    const send = "id" in event && event.e !== "call" && event.e !== "result" ? asked(event) : null;
    switch (event.e) {
      case "send":
        first.set(event.id, make("request", event.id, index, event.server, event.to, event));
        return;
      case "arrive": {
        if (!send) return;
        const arrow = first.get(event.id);
        if (!arrow) return;
        if (arrow.end < 0) finish(arrow, index, "arrived");
        else {
          // The network duplicated the message: add a second arrow from the same start.
          const copy = { ...arrow, end: -1 };
          arrows.push(copy);
          finish(copy, index, "arrived");
        }
        return;
      }
      case "answer": {
        const arrow = make("reply", event.id, index, event.server, event.to, send ?? event);
        const others = waiting.get(event.id);
        if (others) others.push(arrow);
        else waiting.set(event.id, [arrow]);
        return;
      }
      case "reply": {
        const others = waiting.get(event.id);
        if (!others || event.message === null) return;
        const told = JSON.stringify(event.message);
        const place = others.length > 1 ? others.findIndex((one) => JSON.stringify(events[one.start].message) === told) : 0;
        const [arrow] = others.splice(Math.max(0, place), 1);
        if (arrow) finish(arrow, index, "arrived");
        return;
      }
      case "lost": {
        const arrow = event.leg === "request" ? first.get(event.id) : waiting.get(event.id)?.shift();
        if (!arrow) return;
        if (arrow.end < 0) finish(arrow, index, "lost");
        else {
          // The message had arrived, and then the server crashed, so the mark is on the server's lane.
          arrow.died = index;
          arrowOf.set(index, arrow);
        }
        return;
      }
      case "hold":
      case "release":
        mark(index, event);
        return;
      default:
    }
  });
  return arrows.sort((one, two) => one.start - two.start);
}
