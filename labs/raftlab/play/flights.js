// The messages in flight, from the events of the trace and the play server's list of messages that are still in flight. The
// play server is the process of `raftlab play`, see server.py.

import { messageName } from "./names.js";

// The minimum time for which a lost message moves, and the time for which its cross is shown, in seconds of the lab's time.
const LOST = 0.0005;
const CHUNK = 64;

/** One message, or one copy of a message. `route` has the points [time, place] that it passes, from place 0 to place 1. If
 * two successive points have the same place, the message is held between them. `due`: when the play server expects the
 * message to arrive. An event that says when it did arrive takes precedence. */
class Flight {
  constructor(send, event, leg) {
    const back = leg === "reply";
    this.id = send.id;
    this.leg = leg;
    this.from = back ? send.to : send.server;
    this.to = back ? send.server : send.to;
    this.caller = send.server;
    this.called = send.to;
    this.method = send.method;
    this.request = send.message;
    this.event = event;
    this.message = event.message;
    this.term = event.message?.term ?? send.message?.term;
    this.name = messageName(send, back ? event : null);
    this.start = event.t;
    this.route = [[event.t, 0]];
    this.due = null;
    this.end = null;
    this.fate = "";
    this.held = false;
    this.hold = ""; // the name of the hold that holds it, for the commands `release` and `drop`
  }

  /** The place at a time: from 0 (just sent) to 1 (arrived). */
  at(time) {
    const { route } = this;
    let number = route.length - 1;
    while (number > 0 && route[number][0] > time) number--;
    const [t, place] = route[number];
    const next = route[number + 1] ?? this.#aim();
    if (!next || next[0] <= t || time <= t) return place;
    return place + (next[1] - place) * Math.min(1, (time - t) / (next[0] - t));
  }

  #aim() {
    return this.held || this.end !== null || this.due === null ? null : [this.due, 1];
  }

  heldAt(time) {
    const { route } = this;
    for (let number = route.length - 1; number >= 0; number--) {
      if (route[number][0] > time) continue;
      const next = route[number + 1];
      return next ? next[1] === route[number][1] && number > 0 : this.held;
    }
    return false;
  }

  /** The speed of the message at a time: how many seconds a message of this speed takes from place 0 to place 1. */
  speedAt(time) {
    const points = [...this.route];
    const aim = this.#aim();
    if (aim) points.push(aim);
    for (let number = points.length - 1; number > 0; number--) {
      const [[t0, p0], [t1, p1]] = [points[number - 1], points[number]];
      if (t0 <= time && p1 > p0) return (t1 - t0) / (p1 - p0);
    }
    return Infinity;
  }

  stop(time) {
    this.route.push([time, this.at(time)]);
    this.held = true;
    this.due = null;
  }

  goOn(time) {
    if (!this.held) return;
    this.route.push([time, this.route.at(-1)[1]]);
    this.held = false;
  }

  finish(time, fate) {
    if (fate === "lost") {
      // Even a message that is lost as soon as it is sent is shown in flight for a moment.
      const place = Math.max(0.3, Math.min(0.9, this.at(time)));
      if (this.held) this.route.push([time, this.route.at(-1)[1]]);
      this.held = false;
      const last = this.route.at(-1);
      this.route.push([Math.max(time, last[0] + LOST), Math.max(place, last[1])]);
    } else {
      this.held = false;
      this.route.push([time, fate === "arrived" ? 1 : this.at(time)]);
    }
    this.fate = fate;
    this.end = this.route.at(-1)[0];
  }

  /** When the message arrives, or would arrive if it were not held. */
  get arrives() {
    return this.end ?? this.due ?? Infinity;
  }

  /** When the message disappears from the picture. */
  get gone() {
    return this.end === null ? Infinity : this.fate === "lost" ? this.end + LOST : this.end;
  }
}

export class Flights {
  constructor() {
    this.clear();
  }

  clear() {
    this.all = [];
    this.latest = []; // for each chunk of `all`, when its last flight is gone; Infinity if one has not ended
    this.open = new Map(); // "id leg" → flights that have not ended
    this.first = new Map(); // "id leg" → the first flight
  }

  /** `send`: the request that the event belongs to. */
  add(event, send) {
    const key = (leg) => `${event.id} ${leg}`;
    switch (event.e) {
      case "send":
        this.#begin(new Flight(event, event, "request"));
        return;
      case "answer":
        if (send) this.#begin(new Flight(send, event, "reply"));
        return;
      case "arrive":
        this.#end(key("request"), event.t, "arrived");
        return;
      case "reply":
        if (event.message !== null) this.#end(key("reply"), event.t, "arrived");
        return;
      case "lost":
        // If no such message is in flight, the message had arrived before, and then its receiver crashed.
        if (this.open.get(key(event.leg))?.length) this.#end(key(event.leg), event.t, "lost");
        return;
      case "hold":
        this.open.get(key(event.leg))?.find((one) => !one.held)?.stop(event.t);
        return;
      case "release":
        this.open.get(key(event.leg))?.find((one) => one.held)?.goOn(event.t);
        return;
      default:
    }
  }

  #begin(flight) {
    const key = `${flight.id} ${flight.leg}`;
    if (!this.first.has(key)) this.first.set(key, flight);
    const others = this.open.get(key);
    if (others) others.push(flight);
    else this.open.set(key, [flight]);
    flight.number = this.all.push(flight) - 1;
    this.latest[Math.floor(flight.number / CHUNK)] = Infinity;
    return flight;
  }

  #end(key, time, fate) {
    const others = this.open.get(key) ?? [];
    let flight = others.find((one) => !one.held) ?? others[0];
    if (!flight) {
      // The network duplicated the message, and the copy arrived before the play server had listed it as in flight.
      const first = this.first.get(key);
      if (!first || fate !== "arrived") return;
      flight = this.#copy(first);
    }
    this.#close(key, flight, time, fate);
  }

  #copy(first) {
    const copy = Object.assign(Object.create(Object.getPrototypeOf(first)), first, {
      route: [[first.start, 0]], due: null, end: null, fate: "", held: false, hold: "",
    });
    return this.#begin(copy);
  }

  #close(key, flight, time, fate) {
    flight.finish(time, fate);
    const left = this.open.get(key).filter((one) => one !== flight);
    if (left.length) this.open.set(key, left);
    else this.open.delete(key);
    const chunk = Math.floor(flight.number / CHUNK);
    const members = this.all.slice(chunk * CHUNK, (chunk + 1) * CHUNK);
    this.latest[chunk] = members.length < CHUNK ? Infinity : Math.max(...members.map((one) => one.gone));
  }

  /** Take over what the play server says at time `now`: `under`, the messages in flight as [id, leg, due], and `held`, the
   * held messages by hold. */
  reconcile(under, held, now) {
    const dues = new Map();
    for (const [id, leg, due] of under) {
      const key = `${id} ${leg}`;
      if (dues.has(key)) dues.get(key).push(due);
      else dues.set(key, [due]);
    }
    for (const [key, flights] of [...this.open]) {
      const left = dues.get(key) ?? [];
      for (const flight of flights) {
        if (flight.held) continue;
        flight.due = left.shift() ?? null;
        // A reply for which the caller no longer waits ends without an event.
        if (flight.due === null) this.#close(key, flight, now, "unused");
      }
    }
    for (const [key, left] of dues) {
      for (const due of left) if (this.first.has(key)) this.#copy(this.first.get(key)).due = due;
    }
    for (const [name, messages] of Object.entries(held)) {
      for (const [id, leg] of messages) for (const one of this.open.get(`${id} ${leg}`) ?? []) if (one.held) one.hold = name;
    }
  }

  /** When the first message after a time is sent; Infinity if none is known. */
  nextStart(time) {
    let low = 0;
    let high = this.all.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.all[middle].start > time) high = middle;
      else low = middle + 1;
    }
    return this.all[low]?.start ?? Infinity;
  }

  /** Every message that the picture shows at a time. */
  *at(time) {
    for (let chunk = 0; chunk < this.latest.length; chunk++) {
      if (this.all[chunk * CHUNK].start > time) return;
      if (this.latest[chunk] < time) continue;
      const end = Math.min(this.all.length, (chunk + 1) * CHUNK);
      for (let number = chunk * CHUNK; number < end; number++) {
        const flight = this.all[number];
        if (flight.start <= time && flight.gone > time) yield flight;
      }
    }
  }
}
