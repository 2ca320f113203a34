// The picture: servers and clerks as circles, links, messages, and the end of each log. Also finds the object under the
// pointer.

import { nameOf } from "./words.js";
import { entryAt, lastIndex } from "./model.js";
import { FONT, fit, termColour } from "./theme.js";
import { isClerk } from "./names.js";

const ENTRIES = 8; // entries of a log shown at its server
const CELL = 15;
const WORDS = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif';
const CIRCLE = 2 * Math.PI;

export class Stage {
  constructor(canvas, servers, clerks) {
    this.canvas = canvas;
    this.servers = servers;
    this.clerks = clerks;
    this.places = new Map(); // participant → [x, y]
    this.width = this.height = 0;
  }

  /** Compute the place of each participant. Returns whether any has changed. */
  layout(width, height) {
    if (width === this.width && height === this.height) return false;
    this.width = width;
    this.height = height;
    this.radius = Math.max(17, Math.min(44, Math.min(width, height) / (this.servers > 5 ? 14 : 12)));
    const below = this.clerks.length ? this.radius * 2.2 : 0;
    const tall = height - below;
    // Each log is below its server, so the circle is a little higher than the middle.
    const rx = Math.max(60, Math.min(width / 2 - Math.max(this.radius, (ENTRIES * CELL) / 2) - 24, tall * 0.85));
    const ry = Math.max(40, tall / 2 - this.radius - 34);
    for (let server = 0; server < this.servers; server++) {
      const angle = (server / this.servers) * CIRCLE - Math.PI / 2;
      const at = this.servers === 1 ? [width / 2, tall / 2] : [width / 2 + rx * Math.cos(angle), tall / 2 - 8 + ry * Math.sin(angle)];
      this.places.set(server, at);
    }
    this.clerks.forEach((clerk, place) => {
      this.places.set(clerk, [((place + 1) * width) / (this.clerks.length + 1), height - this.radius - 6]);
    });
    return true;
  }

  sizeOf(number) {
    return isClerk(number) ? this.radius * 0.7 : this.radius;
  }

  /** Where a message is, between the rims of the two circles. Each message is drawn beside the line, to the right in
   * its direction of travel. So requests and replies do not overlap. */
  messageAt(flight, time) {
    const [x1, y1] = this.places.get(flight.from);
    const [x2, y2] = this.places.get(flight.to);
    const distance = Math.hypot(x2 - x1, y2 - y1) || 1;
    const [dx, dy] = [(x2 - x1) / distance, (y2 - y1) / distance];
    const start = this.sizeOf(flight.from) + 5;
    const along = start + (distance - start - this.sizeOf(flight.to) - 5) * flight.at(time);
    return [x1 + dx * along - dy * 7, y1 + dy * along + dx * 7];
  }

  /** Paint. `view`: time, states, flights, cut (set of "a b"), off (set), colours, selected (see main.js), quiet, clerks. */
  paint(view) {
    const { brush, width, height } = fit(this.canvas);
    this.layout(width, height);
    Object.assign(this, { brush, view, colours: view.colours });
    brush.clearRect(0, 0, width, height);
    brush.textAlign = "center";
    brush.textBaseline = "middle";
    this.#links();
    for (const s of view.states) this.#server(s);
    for (const clerk of this.clerks) this.#clerk(clerk);
    this.hits = [];
    for (const flight of view.flights) this.#message(flight);
  }

  // --- links ---

  #links() {
    const { brush, colours, view } = this;
    for (let one = 0; one < this.servers; one++) {
      for (let other = one + 1; other < this.servers; other++) {
        const there = view.cut.has(`${one} ${other}`);
        const back = view.cut.has(`${other} ${one}`);
        const away = view.off.has(one) || view.off.has(other);
        const chosen = view.selected.link?.[0] === one && view.selected.link[1] === other;
        if (this.servers > 9 && !there && !back && !chosen) continue;
        const [a, b] = [this.places.get(one), this.places.get(other)];
        brush.lineWidth = chosen ? 3 : 1;
        brush.strokeStyle = chosen ? colours.accent : there || back ? colours.bad : colours.line;
        brush.setLineDash(there && back ? [3, 6] : away ? [2, 8] : []);
        this.#line(a, b);
        brush.setLineDash([]);
        if (there) this.#barrier(a, b, !back);
        if (back) this.#barrier(b, a, !there);
      }
    }
    for (const pair of view.cut) {
      const [from, to] = pair.split(" ").map(Number);
      if (!isClerk(from) && !isClerk(to)) continue;
      brush.strokeStyle = colours.bad;
      brush.setLineDash([3, 6]);
      this.#line(this.places.get(from), this.places.get(to));
      brush.setLineDash([]);
      this.#barrier(this.places.get(from), this.places.get(to), true);
    }
  }

  #line([x1, y1], [x2, y2]) {
    const { brush } = this;
    brush.beginPath();
    brush.moveTo(x1, y1);
    brush.lineTo(x2, y2);
    brush.stroke();
  }

  /** A bar across the link between two participants. The bar is near the first participant, whose messages it blocks. */
  #barrier([x1, y1], [x2, y2], oneWay) {
    const { brush, colours } = this;
    const distance = Math.hypot(x2 - x1, y2 - y1) || 1;
    const [dx, dy] = [(x2 - x1) / distance, (y2 - y1) / distance];
    const at = Math.min(this.radius + 22, distance * 0.4);
    const [x, y] = [x1 + dx * at, y1 + dy * at];
    brush.strokeStyle = colours.bad;
    brush.lineWidth = 3;
    this.#line([x - dy * 9, y + dx * 9], [x + dy * 9, y - dx * 9]);
    if (!oneWay) return;
    // An arrow that points at the bar: only this direction is cut.
    const [bx, by] = [x - dx * 5, y - dy * 5];
    brush.lineWidth = 2;
    this.#line([bx - dx * 7 - dy * 4, by - dy * 7 + dx * 4], [bx, by]);
    this.#line([bx - dx * 7 + dy * 4, by - dy * 7 - dx * 4], [bx, by]);
  }

  // --- servers ---

  #server(s) {
    const { brush, colours, radius, view } = this;
    const [x, y] = this.places.get(s.server);
    const colour = termColour(colours, s.term);
    const disc = (size) => {
      brush.beginPath();
      brush.arc(x, y, size, 0, CIRCLE);
    };
    if (view.selected.server === s.server) {
      brush.strokeStyle = colours.accent;
      brush.lineWidth = 2;
      disc(radius + 9);
      brush.stroke();
    }
    const leads = s.up && s.role === "leader";
    disc(radius);
    brush.fillStyle = leads ? colour : colours.panel;
    brush.fill();
    brush.strokeStyle = s.up ? colour : colours.faint;
    brush.lineWidth = leads ? 4 : 2.5;
    if (!s.up) brush.setLineDash([4, 6]);
    brush.stroke();
    brush.setLineDash([]);
    if (s.up && s.role === "candidate") {
      disc(radius - 6);
      brush.stroke();
    }
    if (view.off.has(s.server)) {
      brush.strokeStyle = colours.bad;
      brush.lineWidth = 2;
      brush.setLineDash([7, 5]);
      disc(radius + 14);
      brush.stroke();
      brush.setLineDash([]);
    }
    if (s.up && !s.paused) this.#quiet(s, x, y);
    const ink = leads ? colours.bg : s.up ? colours.ink : colours.soft;
    brush.fillStyle = ink;
    brush.font = `600 ${Math.round(radius * 0.42)}px ${WORDS}`;
    brush.fillText(`S${s.server}`, x, y - radius * 0.33);
    brush.font = `${Math.round(Math.max(10, radius * 0.3))}px ${WORDS}`;
    brush.fillText(s.up ? (s.paused ? "paused" : s.role) : s.incarnation ? "down" : "not started", x, y + radius * 0.08);
    brush.fillText(`term ${s.term}`, x, y + radius * 0.45);
    this.#log(s, x, y + radius + 15);
  }

  /** The ring that fills until the server restarts its election or heartbeat timer (see `Quiet` in names.js). */
  #quiet(s, x, y) {
    const { brush, colours, radius, view } = this;
    const leads = s.role === "leader";
    const share = Math.min(1, view.quiet.at(s.server, view.time) / (leads ? view.quiet.beat : view.quiet.longest));
    brush.lineWidth = 3;
    brush.strokeStyle = colours.line;
    brush.beginPath();
    brush.arc(x, y, radius + 4.5, 0, CIRCLE);
    brush.stroke();
    if (share <= 0) return;
    brush.strokeStyle = leads ? colours.soft : share > 0.8 ? colours.warn : colours.accent;
    brush.beginPath();
    brush.arc(x, y, radius + 4.5, -Math.PI / 2, -Math.PI / 2 + share * CIRCLE);
    brush.stroke();
  }

  #log(s, x, y) {
    const { brush, colours } = this;
    const last = lastIndex(s);
    if (!last) return;
    const first = Math.max(1, last - ENTRIES + 1);
    const wide = (last - first + 1) * CELL;
    let left = x - wide / 2;
    brush.globalAlpha = s.up ? 1 : 0.55;
    brush.font = `10px ${FONT}`;
    if (first > 1) {
      brush.fillStyle = colours.soft;
      brush.textAlign = "right";
      brush.fillText(String(first - 1), left - 3, y);
      brush.textAlign = "center";
    }
    for (let index = first; index <= last; index++, left += CELL) {
      const box = [left + 1, y - CELL / 2 + 0.5, CELL - 2, CELL - 1];
      if (index <= s.base) {
        brush.strokeStyle = colours.faint;
        brush.lineWidth = 1;
        brush.strokeRect(...box);
        this.#line([left + 2, y + CELL / 2 - 2], [left + CELL - 2, y - CELL / 2 + 2]);
        continue;
      }
      const entry = entryAt(s, index);
      const colour = termColour(colours, entry.term);
      brush.strokeStyle = brush.fillStyle = colour;
      brush.lineWidth = 1;
      if (index <= s.applied) brush.fillRect(...box);
      else {
        if (index <= s.commit) {
          brush.globalAlpha *= 0.35;
          brush.fillRect(...box);
          brush.globalAlpha = s.up ? 1 : 0.55;
        } else brush.setLineDash([2, 2]);
        brush.strokeRect(...box);
        brush.setLineDash([]);
      }
      brush.fillStyle = index <= s.applied ? colours.bg : index <= s.commit ? colours.ink : colour;
      brush.fillText(entry.term === null ? "?" : String(entry.term), left + CELL / 2, y + 0.5);
    }
    brush.globalAlpha = 1;
  }

  #clerk(number) {
    const { brush, colours, view } = this;
    const [x, y] = this.places.get(number);
    const size = this.sizeOf(number);
    const wide = Math.max(size, 52);
    const state = view.clerks.get(number);
    brush.lineWidth = view.selected.server === number ? 3 : 1.5;
    brush.strokeStyle = view.selected.server === number ? colours.accent : colours.soft;
    brush.fillStyle = colours.panel;
    if (!state?.up) brush.setLineDash([4, 5]);
    brush.beginPath();
    brush.roundRect(x - wide, y - size * 0.7, 2 * wide, size * 1.4, 6);
    brush.fill();
    brush.stroke();
    brush.setLineDash([]);
    brush.fillStyle = colours.ink;
    brush.font = `600 ${Math.round(size * 0.5)}px ${WORDS}`;
    brush.fillText(nameOf(number), x, y - (state?.words ? size * 0.22 : 0));
    if (!state?.words) return;
    brush.font = `10px ${FONT}`;
    brush.fillText(state.words.length > 16 ? `${state.words.slice(0, 15)}…` : state.words, x, y + size * 0.3, 2 * wide - 6);
  }

  // --- messages ---

  #message(flight) {
    const { brush, colours, view } = this;
    const [x, y] = this.messageAt(flight, view.time);
    const colour = termColour(colours, flight.term);
    const lost = flight.fate === "lost" && view.time >= flight.end;
    const held = flight.heldAt(view.time);
    const entries = Array.isArray(flight.request?.entries) ? flight.request.entries.length : 0;
    brush.fillStyle = brush.strokeStyle = colour;
    brush.lineWidth = 2;
    if (lost) {
      brush.strokeStyle = colours.bad;
      brush.lineWidth = 3;
      this.#line([x - 6, y - 6], [x + 6, y + 6]);
      this.#line([x - 6, y + 6], [x + 6, y - 6]);
      return;
    }
    const size = flight.leg === "reply" ? 5 : entries ? 9 : 6.5;
    brush.beginPath();
    if (flight.method === "request_vote" || flight.method === "pre_vote" || flight.method === "timeout_now") {
      const reach = size + 2;
      brush.moveTo(x, y - reach);
      brush.lineTo(x + reach, y);
      brush.lineTo(x, y + reach);
      brush.lineTo(x - reach, y);
      brush.closePath();
    } else brush.arc(x, y, size, 0, CIRCLE);
    if (flight.leg === "reply") {
      brush.fillStyle = colours.bg;
      brush.fill();
      brush.stroke();
      const good = flight.message?.success ?? flight.message?.vote_granted;
      if (good !== undefined) {
        brush.font = `bold 13px ${WORDS}`;
        brush.fillStyle = good ? colours.good : colours.bad;
        brush.fillText(good ? "✓" : "✕", x + 12, y - 7);
      }
    } else {
      brush.fill();
      if (entries) {
        brush.fillStyle = colours.bg;
        brush.font = `bold 11px ${WORDS}`;
        brush.fillText(String(entries), x, y + 0.5);
      }
    }
    if (held) {
      brush.strokeStyle = colours.warn;
      brush.lineWidth = 2.5;
      brush.beginPath();
      brush.arc(x, y, 14, 0, CIRCLE);
      brush.stroke();
      brush.fillStyle = colours.warn;
      brush.fillRect(x + 10, y - 17, 3, 9);
      brush.fillRect(x + 15, y - 17, 3, 9);
    }
    this.hits.push({ flight, x, y });
  }

  // --- what is under the pointer ---

  /** The message or link at a place, as {flight} or {link}; null if there is none. */
  under(x, y) {
    let best = null;
    let least = 14;
    for (const { flight, x: fx, y: fy } of this.hits ?? []) {
      const distance = Math.hypot(fx - x, fy - y);
      if (distance < least) [best, least] = [{ flight }, distance];
    }
    if (best) return best;
    least = 8;
    for (let one = 0; one < this.servers; one++) {
      for (let other = one + 1; other < this.servers; other++) {
        const distance = fromLine([x, y], this.places.get(one), this.places.get(other));
        if (distance < least) [best, least] = [{ link: [one, other] }, distance];
      }
    }
    return best;
  }
}

function fromLine([x, y], [x1, y1], [x2, y2]) {
  const long = Math.hypot(x2 - x1, y2 - y1) || 1;
  const along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / long;
  if (along < 30 || along > long - 30) return Infinity;
  return Math.abs((x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)) / long;
}
