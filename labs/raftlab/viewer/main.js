// The application: its state (cursor, filters, spacing), and the parts of the page that show it.

import { Model } from "./model.js";
import { HIDDEN_AT_FIRST, KINDS, Scene } from "./scene.js";
import { ABOVE, HEAD, Picture } from "./draw.js";
import { TimeBar } from "./timebar.js";
import { Panel } from "./panel.js";
import { setUp } from "./controls.js";
import { sentence } from "./words.js";
import { nameTerms, readColours, restoreTheme, setTheme, theme } from "./theme.js";

const $ = (id) => document.getElementById(id);
const PLAY_SPEED = 90; // pixels of the picture per second

class App {
  constructor(data) {
    this.data = data;
    const { servers, clerks } = data.header;
    const { events } = data;
    this.count = events.length;
    this.model = new Model(servers, events, data.before);
    this.scene = new Scene(servers, events, this.model, clerks, data.history);
    nameTerms(this.model.terms);
    this.fails = this.#whereItBroke();
    this.cursor = -1;
    this.kinds = new Set(KINDS.map(([name]) => name).filter((name) => !HIDDEN_AT_FIRST.includes(name)));
    this.servers = new Set();
    this.query = "";
    this.found = [];
    this.foundSet = new Set();
    this.only = false;
    this.spacing = "event";
    this.zoom = 1;
    this.playing = false;
    this.picture = new Picture($("picture"), this.scene, this.model);
    this.timeBar = new TimeBar($("timebar"), this.scene, this.model);
    this.panel = new Panel($("panel"), data, this.scene, this.model, (index) => this.go(index));
    this.colours = readColours();
    setUp(this);
    this.#listen();
    this.refilter();
    if (!this.#followLink()) this.go(this.fails >= 0 ? this.fails : (this.scene.next(-1, 1) ?? -1), false);
    this.paint();
  }

  /** The event at which the run failed: the `fault` event if there is one, else the last event. -1 if the run did not fail,
   * or if its last events are not on this page. */
  #whereItBroke() {
    if (!this.data.failure) return -1;
    for (let index = this.count - 1; index >= 0; index--) if (this.data.events[index].e === "fault") return index;
    return this.data.ends ? this.count - 1 : -1;
  }

  // --- the chosen moment ---

  go(index, link = true) {
    this.cursor = Math.max(-1, Math.min(this.count - 1, index));
    this.panel.show(this.cursor);
    this.timeBar.tell(this.cursor);
    this.#intoView();
    const event = this.data.events[this.cursor];
    $("spoken").textContent = event ? `${event.t.toFixed(3)} ${sentence(event)}` : "";
    // Replace the address instead of adding one, so that the browser's Back button leaves the page.
    if (link) history.replaceState(null, "", `#e=${this.cursor + this.data.first}`);
    this.repaint();
  }

  stepBy(direction, sameServer = false) {
    const server = sameServer ? this.scene.one[this.cursor] : null;
    const found = this.scene.next(this.cursor, direction, server === -1 ? null : server);
    if (found !== null) this.go(found);
  }

  page(direction) {
    const scroller = $("scroller");
    const wanted = this.scene.y[Math.max(0, this.cursor)] + direction * (scroller.clientHeight - 80);
    const { rows } = this.scene;
    if (!rows.length) return;
    const place = Math.min(rows.length - 1, this.scene.rowAt(wanted));
    this.go(rows[place]);
  }

  goToFailure() {
    if (this.fails >= 0) this.go(this.fails);
  }

  goToTime(time) {
    this.go(this.scene.shownAt(time));
  }

  play() {
    this.playing = !this.playing;
    $("play").setAttribute("aria-pressed", String(this.playing));
    $("play").textContent = this.playing ? "❚❚" : "▶";
    if (!this.playing) return;
    let before = performance.now();
    let y = this.scene.y[Math.max(0, this.cursor)];
    const on = (now) => {
      if (!this.playing) return;
      y += ((now - before) / 1000) * PLAY_SPEED;
      before = now;
      const place = Math.min(this.scene.rows.length, this.scene.rowAt(y + 1e-9)) - 1;
      const index = this.scene.rows[place];
      if (index > this.cursor) this.go(index);
      if (place >= this.scene.rows.length - 1) this.play();
      else requestAnimationFrame(on);
    };
    requestAnimationFrame(on);
  }

  #intoView() {
    const scroller = $("scroller");
    const y = this.scene.y[Math.max(0, this.cursor)] + ABOVE;
    const room = scroller.clientHeight - HEAD;
    const margin = Math.min(90, room / 4);
    if (y < scroller.scrollTop + margin) scroller.scrollTop = y - margin;
    else if (y > scroller.scrollTop + room - margin) scroller.scrollTop = y - room + margin;
  }

  // --- what is shown ---

  toggleKind(name) {
    if (!this.kinds.delete(name)) this.kinds.add(name);
    document.querySelector(`[data-kind="${name}"]`).setAttribute("aria-pressed", String(this.kinds.has(name)));
    this.refilter();
  }

  toggleServer(server) {
    if (!this.servers.delete(server)) this.servers.add(server);
    document.querySelector(`#servers [data-server="${server}"]`).setAttribute("aria-pressed", String(this.servers.has(server)));
    this.refilter();
  }

  search(query) {
    this.query = query;
    this.found = this.scene.matches(query);
    this.foundSet = new Set(this.found);
    $("hits").textContent = query.trim() ? `${this.found.length.toLocaleString("en")} found` : "";
    if (this.only) this.refilter();
    else this.repaint();
  }

  showOnly(only) {
    this.only = only;
    this.refilter();
  }

  nextFound(direction) {
    const places = direction > 0 ? this.found : this.found.toReversed();
    const next = places.find((index) => (direction > 0 ? index > this.cursor : index < this.cursor)) ?? places[0];
    if (next !== undefined) this.go(next);
  }

  setSpacing(spacing) {
    this.spacing = spacing;
    $("spacing").textContent = spacing === "time" ? "show a row per event" : "show time to scale"; // what a click does
    this.relayout();
  }

  zoomBy(factor) {
    this.zoom = Math.max(1 / 8, Math.min(8, this.zoom * factor));
    this.relayout();
  }

  switchTheme() {
    setTheme(theme() === "dark" ? "light" : "dark");
    this.recolour();
  }

  recolour() {
    this.colours = readColours();
    this.repaint();
  }

  refilter() {
    this.scene.filter(this.kinds, this.servers, this.only && this.query.trim() ? this.found : null);
    $("nothing").hidden = this.scene.rows.length > 0;
    this.relayout();
    if (this.panel.index !== undefined) this.panel.show(this.cursor);
  }

  /** Compute the places of all events again. The event at the cursor keeps its place on the screen. */
  relayout() {
    const scroller = $("scroller");
    const before = this.scene.y[Math.max(0, this.cursor)] - scroller.scrollTop;
    this.scene.layout(this.spacing, this.zoom);
    $("spacer").style.height = `${Math.ceil(this.scene.height + HEAD + ABOVE + 60)}px`;
    if (before > 0 && before < scroller.clientHeight) scroller.scrollTop = this.scene.y[Math.max(0, this.cursor)] - before;
    this.#intoView();
    this.repaint();
  }

  // --- painting: at most once a frame ---

  repaint() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => this.paint());
  }

  paint() {
    if (this.pending) cancelAnimationFrame(this.pending);
    this.pending = 0;
    const scroller = $("scroller");
    // Do not cover the scroll bar.
    $("picture").style.width = `${scroller.clientWidth}px`;
    const top = scroller.scrollTop;
    const { rows, times } = this.scene;
    const first = Math.min(rows.length - 1, this.scene.rowAt(top));
    const last = Math.min(rows.length, this.scene.rowAt(top + scroller.clientHeight - HEAD)) - 1;
    const seen = rows.length ? [times[rows[Math.max(0, first)]], times[rows[Math.max(0, last)]]] : [0, 0];
    const common = { colours: this.colours, cursor: this.cursor, fails: this.fails };
    const states = this.model.at(this.cursor);
    this.picture.paint({ ...common, top, found: this.foundSet, states, servers: this.servers });
    this.timeBar.paint({ ...common, seen });
  }

  resized() {
    this.panel.show(this.cursor);
    this.#intoView();
    this.repaint();
  }

  // --- the mouse, the address, the window ---

  #listen() {
    const scroller = $("scroller");
    scroller.addEventListener("scroll", () => this.repaint(), { passive: true });
    scroller.addEventListener("click", (event) => {
      const index = this.#under(event);
      if (index !== null) this.go(index);
    });
    scroller.addEventListener("mousemove", (event) => this.#tip(event));
    scroller.addEventListener("mouseleave", () => ($("tip").hidden = true));
    scroller.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    }, { passive: false });
    const bar = $("timebar");
    const drag = (event) => this.goToTime(this.timeBar.timeAt(event.clientX - bar.getBoundingClientRect().left));
    bar.addEventListener("pointerdown", (event) => {
      bar.setPointerCapture(event.pointerId);
      drag(event);
    });
    bar.addEventListener("pointermove", (event) => event.buttons && drag(event));
    bar.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
      this.stepBy(event.key === "ArrowRight" ? 1 : -1);
      event.preventDefault();
      event.stopPropagation();
    });
    addEventListener("hashchange", () => this.#followLink());
    addEventListener("resize", () => this.resized());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
  }

  #under(event) {
    const box = $("picture").getBoundingClientRect();
    return this.picture.hit(event.clientX - box.left, event.clientY - box.top);
  }

  #tip(event) {
    const tip = $("tip");
    const index = this.#under(event);
    tip.hidden = index === null;
    $("scroller").style.cursor = index === null ? "default" : "pointer";
    if (index === null) return;
    tip.textContent = `${this.scene.times[index].toFixed(3)}  ${sentence(this.data.events[index])}`;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18}px`;
  }

  /** Go to the event or moment in the page's address: `#e=512` is the number of an event, `#t=1.234` is a time in seconds.
   * Returns whether the address had one of them. */
  #followLink() {
    const [, name, value] = /^#(e|t)=(\d+(?:\.\d+)?)$/.exec(location.hash) ?? [];
    if (!name || !this.count) return false;
    if (name === "e") this.go(Math.max(0, Number(value) - this.data.first), false);
    else this.go(this.scene.shownAt(Number(value)), false);
    return true;
  }
}

addEventListener("error", (event) => {
  // Without this notice, a reader would mistake an incomplete picture for the whole run.
  $("notices").append(Object.assign(document.createElement("p"), { className: "notice", textContent: `this page had an error and may not show everything: ${event.message}` }));
});
const began = performance.now();
restoreTheme();
const app = new App(JSON.parse($("trace").textContent));
// For tests, and for the browser's console.
window.raftlab = app;
app.sentence = sentence;
app.loadTime = performance.now() - began;
