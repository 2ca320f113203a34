// The panel beside the picture: at the selected moment, the states of all servers, their logs in columns by index, the
// selected event with all its fields, and the events around it.
//
// Text that students wrote appears only here and on the canvas, and only as text, never as HTML.

import { entryAt, lastIndex, roleOf } from "./model.js";
import { field, methodName, seconds, sentence } from "./words.js";
import { termClass } from "./theme.js";
import { cell, el } from "./elements.js";

const AROUND = 4; // events shown before and after the selected one
const GAP = 2; // pixels between the entries of a log; as in style.css

export class Panel {
  constructor(root, data, scene, model, go) {
    this.data = data;
    this.scene = scene;
    this.model = model;
    this.go = go;
    this.shift = 0; // how many entries the logs are scrolled back from their ends
    this.states = root.querySelector("#states");
    this.logs = root.querySelector("#logs");
    this.event = root.querySelector("#event");
    this.around = root.querySelector("#around");
    this.moment = root.querySelector("#moment");
    root.querySelector("#logs-back").onclick = () => this.move(8);
    root.querySelector("#logs-on").onclick = () => this.move(-8);
  }

  move(by) {
    this.shift += by;
    this.#showLogs();
  }

  show(index) {
    this.index = index;
    const { scene, data } = this;
    const when = index >= 0 ? `${seconds(scene.times[index])} s, event ${index + data.first}` : "before the first event";
    this.moment.textContent = when;
    this.now = this.model.at(index);
    this.#showStates();
    this.#showLogs();
    this.#showEvent();
    this.#showAround();
  }

  // --- the servers ---

  #showStates() {
    const head = el("tr", "", ...["server", "role", "term", "vote", "commit", "applied", "last"].map((name) => el("th", "", name)));
    const rows = this.now.map((s) => {
      const last = lastIndex(s);
      const lastTerm = entryAt(s, last)?.term ?? (last === s.base ? s.baseTerm : null);
      const row = el(
        "tr",
        s.up ? "" : "off",
        el("th", "", `S${s.server}`, this.model.scripted.has(s.server) ? el("small", "", " test") : null),
        el("td", "", el("span", `role ${s.up ? s.role : "down"} ${termClass(s.up ? s.term : 0)}`, roleOf(s))),
        el("td", "", String(s.term)),
        el("td", "", s.vote === null ? "–" : `S${s.vote}`),
        el("td", "", String(s.commit)),
        el("td", "", String(s.applied)),
        el("td", "", last ? `${last}` : "–", el("small", "", last ? ` T${lastTerm ?? "?"}` : "")),
      );
      row.dataset.server = s.server;
      return row;
    });
    this.states.replaceChildren(el("thead", "", head), el("tbody", "", ...rows));
  }

  #showLogs() {
    const wide = 5 + 6 * Math.max(2, String(Math.max(...this.model.terms, 0)).length);
    this.logs.style.setProperty("--cell", `${wide}px`);
    const places = Math.max(6, Math.floor((this.logs.clientWidth - 28) / (wide + GAP)));
    const end = Math.max(0, ...this.now.map(lastIndex));
    this.shift = Math.max(0, Math.min(this.shift, end - places));
    const to = Math.max(places, end - this.shift);
    const from = Math.max(1, to - places + 1);
    const head = [el("span", "who", "")];
    for (let index = from; index <= to; index++) head.push(el("span", "index", index % 5 === 0 || index === from ? String(index) : ""));
    const rows = [el("div", "strip", ...head)];
    for (const s of this.now) {
      const cells = [el("span", "who", `S${s.server}`)];
      for (let index = from; index <= to; index++) cells.push(cell(s, index));
      const row = el("div", `strip${s.up ? "" : " off"}`, ...cells);
      row.dataset.server = s.server;
      rows.push(row);
    }
    this.logs.replaceChildren(...rows);
    this.logs.hidden = end === 0;
    document.getElementById("logs-none").hidden = end > 0;
    document.getElementById("logs-back").disabled = from === 1;
    document.getElementById("logs-on").disabled = this.shift === 0;
  }

  // --- the event ---

  #showEvent() {
    const event = this.scene.events[this.index];
    if (!event) {
      this.event.replaceChildren(el("p", "soft", "Nothing has happened yet. Press j or ↓ for the first event."));
      return;
    }
    const parts = [el("p", "sentence", sentence(event))];
    const call = this.#rpcEvents(event);
    if (call) parts.push(call);
    const message = event.message ?? this.scene.arrowOf.get(this.index)?.send?.message;
    if (message && typeof message === "object" && !Array.isArray(message)) {
      if (!event.message) parts.push(el("h4", "", `the ${methodName(event.method ?? this.scene.asked(event)?.method)} request`));
      parts.push(fieldTable(message));
    } else if (event.e === "line" || event.e === "fault" || event.e === "advice") {
      parts.push(el("pre", "", event.text + (event.where ? `\n${event.where}` : "")));
    }
    this.event.replaceChildren(...parts);
  }

  /** All events of one RPC, each as a button. */
  #rpcEvents(event) {
    if (!("id" in event) || event.e === "call" || event.e === "result") return null;
    const words = { send: "sent", arrive: "arrived", answer: "answered", reply: "reply", lost: "lost", hold: "held", release: "released" };
    const steps = this.#callEvents(event.id).map((index) => {
      const one = this.scene.events[index];
      const what = one.e === "reply" && one.message === null ? "no reply" : one.e === "lost" ? `${one.leg} lost` : words[one.e];
      const button = el("button", index === this.index ? "here" : "", `${what} ${seconds(this.scene.times[index])}`);
      button.onclick = () => this.go(index);
      return button;
    });
    return el("div", "rpc-events", el("span", "soft", `call #${event.id}`), ...steps);
  }

  #callEvents(id) {
    if (!this.byCall) {
      this.byCall = new Map();
      this.scene.events.forEach((event, index) => {
        if (!("id" in event) || event.e === "call" || event.e === "result") return;
        const known = this.byCall.get(event.id);
        if (known) known.push(index);
        else this.byCall.set(event.id, [index]);
      });
    }
    return this.byCall.get(id) ?? [];
  }

  #showAround() {
    const { scene } = this;
    const picked = [];
    for (let at = this.index, left = AROUND; left && (at = scene.next(at, -1)) !== null; left--) picked.unshift(at);
    if (this.index >= 0) picked.push(this.index);
    for (let at = this.index, left = AROUND; left && (at = scene.next(at, 1)) !== null; left--) picked.push(at);
    const lines = picked.map((index) => {
      const button = el("button", index === this.index ? "here" : "", el("time", "", seconds(scene.times[index])), ` ${sentence(scene.events[index])}`);
      button.onclick = () => this.go(index);
      return el("li", "", button);
    });
    this.around.replaceChildren(...lines);
  }
}

function fieldTable(message) {
  const rows = Object.entries(message).map(([name, value]) => {
    if (name === "entries" && Array.isArray(value)) return el("tr", "", el("th", "", name), el("td", "", entryList(value, message)));
    return el("tr", "", el("th", "", name), el("td", "", field(name, value)));
  });
  return el("table", "fields", el("tbody", "", ...rows));
}

function entryList(entries, message) {
  if (!entries.length) return "none: a heartbeat";
  const list = el("ol", "entries");
  list.start = (message.prev_log_index ?? 0) + 1;
  // A message may have hundreds of entries. The panel shows the first 50; the trace contains all of them.
  for (const entry of entries.slice(0, 50)) {
    const rest = Object.entries(entry ?? {}).filter(([name]) => name !== "term" && name !== "command");
    const more = rest.length ? `  ${rest.map(([name, value]) => `${name}=${field(name, value)}`).join(" ")}` : "";
    list.append(el("li", "", el("span", `pill ${termClass(entry?.term)}`, `T${entry?.term}`), ` ${field("command", entry?.command)}`, el("small", "", more)));
  }
  if (entries.length > 50) list.append(el("li", "soft", `… ${entries.length - 50} more`));
  return list;
}
