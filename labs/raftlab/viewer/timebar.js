// The bar at the bottom. It shows the whole run: its leaders, the number of events over time, crashes, cuts and the failure.
// A click on it moves the cursor.

import { seconds } from "./words.js";
import { FONT, fit, termColour } from "./theme.js";

const SIDE = 12;
const TOP = 5;
const LEADS = 7; // the height of the strip with the leaders' terms
const BUSY = 22; // the height of the histogram of events below the strip

export class TimeBar {
  constructor(canvas, scene, model) {
    this.canvas = canvas;
    this.scene = scene;
    this.model = model;
    const { times, events } = scene;
    this.start = events.length ? times[0] : 0;
    this.length = Math.max(events.length ? times[events.length - 1] - this.start : 0, 1e-6);
    this.leads = reigns(model.spans, events.length);
    this.marks = [];
    events.forEach((event, index) => {
      if (event.e === "crash" || event.e === "net" || event.e === "note") this.marks.push(index);
    });
  }

  x(time) {
    return SIDE + ((time - this.start) / this.length) * (this.width - 2 * SIDE);
  }

  timeAt(x) {
    return this.start + (Math.max(0, Math.min(1, (x - SIDE) / (this.width - 2 * SIDE)))) * this.length;
  }

  paint({ colours, cursor, fails, seen }) {
    const { brush, width, height } = fit(this.canvas);
    const { scene } = this;
    this.width = width;
    brush.clearRect(0, 0, width, height);
    const bottom = TOP + LEADS + BUSY + 3;
    brush.fillStyle = colours.band;
    brush.fillRect(SIDE, TOP, width - 2 * SIDE, bottom - TOP);
    for (const { from, to, term } of this.leads) {
      const end = to < scene.events.length ? scene.times[to] : this.start + this.length;
      brush.fillStyle = termColour(colours, term);
      brush.fillRect(this.x(scene.times[from]), TOP, Math.max(1, this.x(end) - this.x(scene.times[from])), LEADS);
    }
    this.#histogram(brush, colours, bottom);
    for (const index of this.marks) {
      const kind = scene.events[index].e;
      const x = this.x(scene.times[index]);
      brush.fillStyle = kind === "crash" ? colours.bad : colours.warn;
      if (kind === "crash") brush.fillRect(x - 1, TOP + LEADS, 2, BUSY + 3);
      else if (kind === "net") brush.fillRect(x - 0.5, bottom - 8, 1, 8);
    }
    brush.fillStyle = colours.accent;
    brush.globalAlpha = 0.16;
    const left = this.x(seen[0]);
    brush.fillRect(left, TOP, Math.max(3, this.x(seen[1]) - left), bottom - TOP);
    brush.globalAlpha = 1;
    this.#ticks(brush, colours, bottom + 10);
    if (fails >= 0) {
      const x = this.x(scene.times[fails]);
      brush.fillStyle = colours.bad;
      brush.fillRect(x - 1, 0, 3, bottom);
    }
    if (cursor >= 0) {
      const x = this.x(scene.times[cursor]);
      brush.fillStyle = colours.accent;
      brush.fillRect(x - 1, 0, 2, bottom + 3);
      brush.beginPath();
      brush.moveTo(x - 5, bottom + 8);
      brush.lineTo(x, bottom + 1);
      brush.lineTo(x + 5, bottom + 8);
      brush.fill();
    }
  }

  #ticks(brush, colours, y) {
    const most = (this.width - 2 * SIDE) / 70;
    const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].find((one) => this.length / one <= most) ?? 200;
    brush.font = `10px ${FONT}`;
    brush.textAlign = "center";
    brush.textBaseline = "middle";
    brush.fillStyle = colours.soft;
    for (let tick = Math.ceil(this.start / step); tick * step <= this.start + this.length; tick++) {
      const text = (tick * step).toFixed(step < 0.01 ? 3 : step < 0.1 ? 2 : step < 1 ? 1 : 0);
      const x = this.x(tick * step);
      if (x > 24 && x < this.width - 24) brush.fillText(text, x, y);
    }
  }

  // The events are counted again only if the width of the bar has changed.
  #histogram(brush, colours, bottom) {
    const columns = Math.max(1, Math.floor((this.width - 2 * SIDE) / 3));
    if (this.busy?.length !== columns) {
      this.busy = new Float64Array(columns);
      for (const time of this.scene.times) {
        this.busy[Math.min(columns - 1, Math.floor(((time - this.start) / this.length) * columns))]++;
      }
      this.most = Math.max(1, ...this.busy);
    }
    brush.fillStyle = colours.faint;
    for (let column = 0; column < columns; column++) {
      const tall = Math.sqrt(this.busy[column] / this.most) * BUSY;
      if (tall > 0) brush.fillRect(SIDE + column * 3, bottom - tall, 2, tall);
    }
  }

  /** Set the slider's position for screen readers. */
  tell(cursor) {
    const end = seconds(this.start + this.length);
    const now = cursor >= 0 ? this.scene.times[cursor] : this.start;
    this.canvas.setAttribute("aria-valuemin", seconds(this.start));
    this.canvas.setAttribute("aria-valuemax", end);
    this.canvas.setAttribute("aria-valuenow", seconds(now));
    this.canvas.setAttribute("aria-valuetext", `${seconds(now)} of ${end} seconds`);
  }
}

/** The spans of leaders, sorted by term. The bar shows only one leader at a time: the one with the highest term. */
function reigns(spans, count) {
  const all = spans.flatMap((own, server) =>
    own.map((span, place) => ({ server, role: span.role, term: span.term, from: span.from, to: own[place + 1]?.from ?? count })));
  const leads = all.filter((span) => span.role === "leader" && span.to > span.from).sort((one, two) => one.term - two.term);
  return leads; // higher terms are painted over lower ones
}
