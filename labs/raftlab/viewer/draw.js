// The visible part of the picture: drawing it, and finding the event under the pointer.
//
// Time runs downwards, and each server has a lane. scene.js decides which events are shown. The time for drawing depends
// only on what is on the screen, not on the size of the trace.

import { label, seconds } from "./words.js";
import { roleOf } from "./model.js";
import { messageKind, search } from "./scene.js";
import { FONT, fit, termColour } from "./theme.js";
import { drawClerkNames, drawOperations } from "./clerks.js";

export const HEAD = 34; // the height of the row with the lanes' names
export const ABOVE = 16; // space above the first event
const GUTTER = 66;
const LEFT = 26;
const ROOMY = 230; // minimum distance of lanes, in pixels, at which there is space for long labels

const LEADER = 9;
const OTHER = 3;

export class Picture {
  constructor(canvas, scene, model) {
    this.canvas = canvas;
    this.scene = scene;
    this.model = model;
    this.hits = [];
  }

  // Labels are to the right of a lane or on its arrows, so every lane has space at its right, even the last one.
  lane(server) {
    return GUTTER + LEFT + this.scene.laneOf(server) * this.gap;
  }

  /** Paint. `view`: top, cursor, fails (event number or -1), found (set of event numbers), states, colours, servers. */
  paint(view) {
    const { brush, width, height } = fit(this.canvas);
    Object.assign(this, { brush, width, height, view, colours: view.colours, top: view.top });
    this.gap = (width - GUTTER - LEFT - 4) / this.scene.lanes;
    this.roomy = this.gap >= ROOMY;
    this.hits = [];
    this.taken = [];
    brush.fillStyle = this.colours.bg;
    brush.fillRect(0, 0, width, height);
    brush.font = `11px ${FONT}`;
    brush.textBaseline = "middle";
    this.letter = brush.measureText("0").width;
    const from = this.scene.rowAt(this.top - 40);
    const to = this.scene.rowAt(this.top + height + 20);
    this.#lanes();
    this.#times(from, to);
    this.#bands(from, to);
    drawOperations(this, HEAD, Math.min(height, this.scene.height - this.top + HEAD + ABOVE + 14));
    this.#arrows();
    this.#marks(from, to);
    this.#labels(from, to);
    this.#failure();
    this.#cursor();
    this.#head();
  }

  at(index) {
    return this.scene.y[index] - this.top + HEAD + ABOVE;
  }

  // --- lanes ---

  #lanes() {
    const { scene, brush, height } = this;
    const bottom = Math.min(height, scene.height - this.top + HEAD + ABOVE + 14);
    for (let server = 0; server < scene.servers; server++) {
      const x = this.lane(server);
      const spans = this.model.spans[server];
      let place = Math.max(0, search(spans.length, (one) => this.at(spans[one].from) > 0) - 1);
      brush.globalAlpha = this.#dim(server) ? 0.35 : 1;
      for (; place < spans.length; place++) {
        const start = place === 0 ? HEAD : this.at(spans[place].from);
        if (start > height) break;
        const end = place + 1 < spans.length ? this.at(spans[place + 1].from) : bottom;
        if (end >= HEAD && end > start) this.#span(x, Math.max(0, start), Math.min(height, end), spans[place]);
      }
    }
    brush.globalAlpha = 1;
  }

  #dim(server) {
    return this.view.servers.size > 0 && !this.view.servers.has(server);
  }

  #span(x, start, end, span) {
    const { brush } = this;
    const colour = termColour(this.colours, span.term);
    brush.lineWidth = 1;
    if (span.role === "down") {
      brush.strokeStyle = this.colours.faint;
      this.#line(x, start, x, end, [2, 5]);
      return;
    }
    if (span.role === "leader") {
      brush.fillStyle = colour;
      brush.fillRect(x - LEADER / 2, start, LEADER, end - start);
    } else if (span.role === "candidate") {
      brush.strokeStyle = colour;
      brush.lineWidth = 1.5;
      this.#line(x - 3, start, x - 3, end);
      this.#line(x + 3, start, x + 3, end);
    } else {
      brush.fillStyle = colour;
      brush.fillRect(x - OTHER / 2, start, OTHER, end - start);
    }
    if (span.paused) {
      brush.fillStyle = this.colours.bg;
      for (let y = start - (start % 8); y < end; y += 8) brush.fillRect(x - 6, Math.max(start, y), 12, Math.min(4, end - y));
    }
  }

  #line(x1, y1, x2, y2, dash = []) {
    const { brush } = this;
    brush.setLineDash(dash);
    brush.beginPath();
    brush.moveTo(x1, y1);
    brush.lineTo(x2, y2);
    brush.stroke();
    brush.setLineDash([]);
  }

  // --- the clock at the left ---

  #times(from, to) {
    const { brush, scene, colours } = this;
    const cursor = this.view.cursor >= 0 ? this.at(this.view.cursor) : -100;
    let last = -100;
    let shown = "";
    brush.textAlign = "right";
    for (let place = from; place < to; place++) {
      const y = this.at(scene.rows[place]);
      if (place > 0) this.#quiet(scene.rows[place - 1], scene.rows[place]);
      if (y - last < 30 || Math.abs(y - cursor) < 15) continue;
      last = y;
      const time = seconds(scene.times[scene.rows[place]]);
      if (time === shown) continue;
      shown = time;
      brush.fillStyle = colours.soft;
      brush.fillText(time, GUTTER - 14, y);
      brush.fillStyle = colours.line;
      brush.fillRect(GUTTER - 10, y, 6, 1);
    }
    brush.textAlign = "left";
  }

  // Where time is compressed, say how much time is left out.
  #quiet(before, after) {
    const { brush, scene, colours } = this;
    const gap = scene.times[after] - scene.times[before];
    const room = this.at(after) - this.at(before);
    if (gap < 0.3 || room < 30 || room > 300) return;
    const y = (this.at(after) + this.at(before)) / 2;
    brush.fillStyle = colours.soft;
    brush.font = `10px ${FONT}`;
    brush.fillText(`${gap.toFixed(1)} s`, GUTTER - 14, y);
    brush.font = `11px ${FONT}`;
    for (const dot of [-5, 0, 5]) brush.fillRect(GUTTER - 8, y + dot - 1, 2, 2);
  }

  // --- what the test did, across all lanes ---

  #bands(from, to) {
    const { scene, brush, colours, width } = this;
    for (let place = from; place < to; place++) {
      const index = scene.rows[place];
      const event = scene.events[index];
      if (event.e !== "net" && event.e !== "note") continue;
      const y = this.at(index);
      brush.fillStyle = colours.band;
      brush.globalAlpha = 0.8; // the lanes stay visible below
      brush.fillRect(GUTTER - 4, y - 8, width, 16);
      brush.globalAlpha = 1;
      const text = this.#short((event.e === "net" ? "⇄ " : "▸ ") + event.text, width - GUTTER - 16);
      brush.fillStyle = event.e === "net" ? colours.warn : colours.ink;
      brush.fillText(text, GUTTER + 2, y);
      this.taken.push([GUTTER, y - 8, width, y + 8]);
      this.hits.push({ index, box: [GUTTER - 4, y - 8, width, y + 8] });
    }
  }

  // --- messages ---

  #arrows() {
    const { scene, view } = this;
    const selected = view.cursor >= 0 ? scene.arrowOf.get(view.cursor) : null;
    const call = selected?.id ?? (scene.events[view.cursor]?.e === "reply" ? scene.events[view.cursor].id : null);
    const later = [];
    for (const arrow of scene.arrowsBetween(this.top - HEAD - 40, this.top + this.height)) {
      if (call !== null && arrow.id === call) later.push(arrow);
      else this.#arrow(arrow, false);
    }
    for (const arrow of later) this.#arrow(arrow, true);
  }

  #arrow(arrow, chosen) {
    const { brush, colours, scene } = this;
    const start = scene.events[arrow.start];
    const beat = arrow.kind === messageKind({ method: "append_entries" });
    const fresh = this.view.found.has(arrow.start) || this.view.found.has(arrow.end);
    brush.strokeStyle = brush.fillStyle = chosen || fresh ? colours.accent : termColour(colours, start.message?.term);
    brush.globalAlpha = chosen || fresh ? 1 : beat ? 0.42 : 0.92;
    brush.lineWidth = chosen ? 2.4 : beat ? 1 : 1.5;
    const dash = arrow.leg === "reply" ? [5, 3] : [];
    const x1 = this.lane(arrow.from);
    const x2 = this.lane(arrow.to);
    const side = Math.sign(x2 - x1) || 1;
    let x = x1 + side * 4;
    let y = this.at(arrow.start);
    if (arrow.hold >= 0) {
      // A message that the test holds back waits between the lanes until it is released.
      const wait = x1 + (x2 - x1) * 0.4;
      const ends = arrow.release >= 0 ? arrow.release : arrow.end;
      const until = ends >= 0 ? this.at(ends) : this.at(arrow.hold) + 26;
      this.#line(x, y, wait, this.at(arrow.hold), dash);
      this.#line(wait, this.at(arrow.hold), wait, until, [1, 3]);
      brush.fillRect(wait - 4, this.at(arrow.hold) - 4, 3, 8);
      brush.fillRect(wait + 1, this.at(arrow.hold) - 4, 3, 8);
      this.hits.push({ index: arrow.hold, line: [wait, this.at(arrow.hold), wait, until] });
      [x, y] = [wait, until];
      if (arrow.release < 0 && arrow.fate === "lost") this.#cross(arrow, x, y);
    }
    if (arrow.hold < 0 || arrow.release >= 0) this.#flight(arrow, x, y, x1, x2, side, dash);
    brush.globalAlpha = 1;
  }

  #flight(arrow, x, y, x1, x2, side, dash) {
    const { brush } = this;
    if (arrow.fate === "lost") {
      const began = arrow.release >= 0 ? arrow.release : arrow.start;
      // A message that is lost when it is sent gets a short arrow. One that is lost when it would arrive gets a long arrow.
      const there = this.scene.times[arrow.end] - this.scene.times[began] < 1e-9 ? 0.3 : 0.85;
      const end = x1 + (x2 - x1) * (arrow.release >= 0 ? Math.max(there, 0.55) : there);
      const down = Math.max(this.at(arrow.end), y);
      this.#line(x, y, end, down, dash);
      this.hits.push({ index: arrow.start, line: [x, y, end, down] });
      this.#cross(arrow, end, down);
      return;
    }
    const reaches = arrow.fate === "arrived";
    const end = reaches ? x2 - side * 5 : x1 + (x2 - x1) * 0.35;
    const down = reaches ? this.at(arrow.end) : y + 10;
    if (!reaches) brush.globalAlpha *= 0.6;
    this.#line(x, y, end, down, dash);
    if (reaches) this.#tip(end, down, Math.atan2(down - y, end - x));
    this.hits.push({ index: arrow.start, line: [x, y, end, down] });
  }

  #cross(arrow, x, y) {
    const { brush, colours } = this;
    brush.strokeStyle = colours.bad;
    brush.lineWidth = 1.8;
    this.#line(x - 4, y - 4, x + 4, y + 4);
    this.#line(x - 4, y + 4, x + 4, y - 4);
    this.hits.push({ index: arrow.end, box: [x - 6, y - 6, x + 6, y + 6] });
    this.taken.push([x - 4, y - 4, x + 4, y + 4]);
  }

  #tip(x, y, angle) {
    const { brush } = this;
    brush.beginPath();
    brush.moveTo(x, y);
    for (const turn of [2.72, -2.72]) brush.lineTo(x + 7 * Math.cos(angle + turn), y + 7 * Math.sin(angle + turn));
    brush.closePath();
    brush.fill();
  }

  // --- marks on the lanes ---

  #marks(from, to) {
    const { scene, brush, colours } = this;
    for (let place = from; place < to; place++) {
      const index = scene.rows[place];
      const event = scene.events[index];
      const server = scene.one[index];
      if (server < 0 || event.e === "net" || event.e === "note") continue;
      const x = this.lane(server);
      const y = this.at(index);
      if (this.view.found.has(index)) {
        brush.fillStyle = colours.accent;
        brush.fillRect(x - 7, y - 6, 2, 12);
      }
      this.#mark(event, x, y);
      this.hits.push({ index, box: [x - 7, y - 5, x + 7, y + 5] });
    }
  }

  #mark(event, x, y) {
    const { brush, colours } = this;
    const dot = (radius, colour) => {
      brush.fillStyle = colour;
      brush.beginPath();
      brush.arc(x, y, radius, 0, 7);
      brush.fill();
    };
    const cross = (colour) => {
      brush.strokeStyle = colour;
      brush.lineWidth = 2.5;
      this.#line(x - 5, y - 5, x + 5, y + 5);
      this.#line(x - 5, y + 5, x + 5, y - 5);
    };
    const box = (colour) => {
      brush.fillStyle = colour;
      brush.fillRect(x - 4, y - 4, 8, 8);
    };
    if (event.e === "crash") cross(colours.bad);
    else if (event.e === "fault") dot(6, colours.bad);
    else if (event.e === "advice") dot(5, colours.warn);
    else if (event.e === "boot") dot(5, colours.good);
    else if (event.e === "pause" || event.e === "resume" || event.e === "rate") box(colours.warn);
    else if (event.e === "apply") box(colours.good);
    else if (event.e === "save" || event.e === "snapshot") box(colours.soft);
    else if (event.e === "line") dot(3, colours.ink);
    else if (event.e === "call" || event.e === "result") dot(4, colours.accent);
    else if (event.e === "reply" && event.message === null) {
      brush.strokeStyle = colours.soft;
      brush.fillStyle = colours.bg;
      brush.lineWidth = 1.5;
      brush.beginPath();
      brush.arc(x, y, 4, 0, 7);
      brush.fill();
      brush.stroke();
    }
  }

  // --- labels ---

  #labels(from, to) {
    const { scene } = this;
    // The most important events get their labels first. If there is no space for the label of an event, the label is shown
    // when the pointer is on the event.
    const later = [];
    for (let place = from; place < to; place++) {
      const index = scene.rows[place];
      const event = scene.events[index];
      if (event.e === "net" || event.e === "note" || scene.one[index] < 0) continue;
      const arrow = scene.arrowOf.get(index);
      const beat = arrow && arrow.kind === messageKind({ method: "append_entries" });
      if (beat && !this.view.found.has(index) && index !== this.view.cursor) later.push([index, arrow]);
      else this.#label(index, arrow);
    }
    if (this.roomy) for (const [index, arrow] of later) this.#label(index, arrow, true);
  }

  #label(index, arrow, quiet = false) {
    const { scene, brush, colours } = this;
    const event = scene.events[index];
    const text = this.#words(event, index);
    if (!text) return;
    const x = this.lane(scene.one[index]);
    const y = this.at(index);
    let left = x + 10;
    const message = event.e === "send" || event.e === "answer";
    // If lanes are narrow, a server's label may cross the next lane.
    const most = message || this.roomy ? this.gap - 20 : Math.min(2 * this.gap - 20, this.width - x - 16);
    const shown = this.#short(text, most);
    const width = shown.length * this.letter;
    let lift = 0;
    if (message) {
      if (arrow && arrow.to < arrow.from) left = x - 10 - width;
      lift = -5; // put the label above its arrow
    }
    const box = [left - 2, y + lift - 5, left + width + 2, y + lift + 5];
    if (this.taken.some((one) => one[0] < box[2] && box[0] < one[2] && one[1] < box[3] && box[1] < one[3])) return;
    this.taken.push(box);
    brush.globalAlpha = 0.78;
    brush.fillStyle = colours.bg;
    brush.fillRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    brush.globalAlpha = quiet ? 0.75 : 1;
    brush.fillStyle = this.#wordColour(event, quiet);
    brush.fillText(shown, left, y + lift + 0.5);
    brush.globalAlpha = 1;
    this.hits.push({ index, box });
  }

  #words(event, index) {
    const { scene } = this;
    const last = scene.seriesOf.get(index);
    if (last === -1 && index !== this.view.cursor && !this.view.found.has(index)) return "";
    if (last >= 0 && event.e === "apply") return `applies ${event.message?.index} to ${scene.events[last].message?.index}`;
    const words = label(event, this.roomy, event.e === "call" ? scene.results.get(event.id)?.message : undefined);
    return last >= 0 ? `${words}  and so on` : words;
  }

  #wordColour(event, quiet) {
    const { colours } = this;
    if (event.e === "crash" || event.e === "fault") return colours.bad;
    if (event.e === "advice" || event.e === "pause" || event.e === "resume" || event.e === "rate") return colours.warn;
    if (event.e === "apply" || event.e === "boot") return colours.good;
    if (event.e === "save" || event.e === "reply" || quiet) return colours.soft;
    if (event.e === "send" || event.e === "answer") return termColour(colours, event.message?.term);
    return colours.ink;
  }

  #short(text, room) {
    const most = Math.floor(room / this.letter);
    const flat = text.length > 400 ? text.slice(0, 400) : text;
    const line = flat.replace(/\s+/g, " ");
    return line.length <= most ? line : line.slice(0, Math.max(1, most - 1)) + "…";
  }

  // --- the failure, the cursor, the names of the lanes ---

  #failure() {
    const { brush, colours, view } = this;
    if (view.fails < 0) return;
    const y = this.at(view.fails);
    if (y < HEAD || y > this.height + 20) return;
    brush.strokeStyle = colours.bad;
    brush.lineWidth = 2;
    this.#line(GUTTER - 6, y + 9, this.width, y + 9);
    const text = "✕ the run broke here";
    const width = text.length * this.letter + 12;
    brush.fillStyle = colours.bad;
    brush.fillRect(this.width - width - 8, y + 9, width, 18);
    brush.fillStyle = colours.bg;
    brush.fillText(text, this.width - width - 2, y + 18.5);
  }

  #cursor() {
    const { brush, colours, view, scene } = this;
    if (view.cursor < 0) return;
    const y = this.at(view.cursor);
    brush.globalAlpha = 0.13;
    brush.fillStyle = colours.accent;
    brush.fillRect(0, y - 7, this.width, 14);
    brush.globalAlpha = 1;
    brush.fillStyle = colours.accent;
    brush.fillRect(0, y - 9, GUTTER - 8, 18);
    brush.fillStyle = colours.bg;
    brush.textAlign = "right";
    brush.fillText(seconds(scene.times[view.cursor]), GUTTER - 14, y + 0.5);
    brush.textAlign = "left";
    const server = scene.one[view.cursor];
    if (server < 0 || !scene.shown[view.cursor]) return;
    brush.strokeStyle = colours.accent;
    brush.lineWidth = 2;
    brush.beginPath();
    brush.arc(this.lane(server), y, 8, 0, 7);
    brush.stroke();
  }

  #head() {
    const { brush, colours, view, scene } = this;
    brush.fillStyle = colours.panel;
    brush.fillRect(0, 0, this.width, HEAD);
    brush.fillStyle = colours.line;
    brush.fillRect(0, HEAD - 1, this.width, 1);
    brush.fillStyle = colours.soft;
    brush.fillText("seconds", 8, HEAD / 2);
    for (const s of view.states) {
      const x = this.lane(s.server) - 7;
      brush.globalAlpha = this.#dim(s.server) ? 0.4 : 1;
      const role = roleOf(s);
      const played = this.model.scripted.has(s.server) ? "test: " : "";
      const words = this.#short(this.gap > 110 ? `${played}${role} T${s.term}` : `T${s.term}`, this.gap - 36);
      brush.font = `bold 13px ${FONT}`;
      brush.fillStyle = colours.ink;
      brush.fillText(`S${s.server}`, x, HEAD / 2);
      brush.font = `11px ${FONT}`;
      brush.fillStyle = s.up ? termColour(colours, s.term) : colours.soft;
      if (s.up && s.role === "leader") {
        brush.fillRect(x + 21, 8, words.length * this.letter + 10, HEAD - 17);
        brush.fillStyle = colours.bg;
      }
      brush.fillText(words, x + 26, HEAD / 2);
    }
    brush.globalAlpha = 1;
    drawClerkNames(this, HEAD, (number) => this.#dim(number));
  }

  // --- the pointer ---

  /** The event whose mark, label or arrow is at or near a point of the canvas; null if there is none. */
  hit(x, y) {
    if (y < HEAD) return null;
    let best = null;
    let nearest = 6;
    for (let place = this.hits.length - 1; place >= 0; place--) {
      const { index, box, line } = this.hits[place];
      if (box) {
        if (x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3]) return index;
      } else {
        const distance = toLine(x, y, line);
        if (distance < nearest) [best, nearest] = [index, distance];
      }
    }
    return best;
  }
}

function toLine(x, y, [x1, y1, x2, y2]) {
  const length = (x2 - x1) ** 2 + (y2 - y1) ** 2;
  const part = length ? Math.max(0, Math.min(1, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length)) : 0;
  return Math.hypot(x - x1 - part * (x2 - x1), y - y1 - part * (y2 - y1));
}
