// The application: the moment that is shown, how it moves, and what the user does.
//
// The page shows time `t`; the run itself is at `now`. While the page plays, `t` follows `now` closely. If `t` is earlier,
// the page shows the past. If the user acts there, the session first goes back to that moment.

import { FIRST_CLERK, nameOf, sentence, shown } from "./words.js";
import { Model, lastIndex, roleOf } from "./model.js";
import { nameTerms, readColours, restoreTheme, setTheme, theme } from "./theme.js";
import { el } from "./elements.js";
import { Flights } from "./flights.js";
import { Quiet, isClerk } from "./names.js";
import { Link } from "./link.js";
import { Stage } from "./stage.js";
import { Panel } from "./panel.js";

const $ = (id) => document.getElementById(id);

// The speeds. `message`: how many wall-clock seconds a message takes to arrive. `quiet`: seconds of the lab's time per
// wall-clock second while no message is in flight. `real`: seconds of the lab's time per wall-clock second at all times.
const SPEEDS = [
  { words: "a message takes 5 s", message: 5, quiet: 0.02 },
  { words: "a message takes 2 s", message: 2, quiet: 0.05 },
  { words: "a message takes 1 s", message: 1, quiet: 0.1 },
  { words: "a message takes ½ s", message: 0.5, quiet: 0.15 },
  { words: "a message takes ¼ s", message: 0.25, quiet: 0.3 },
  { words: "a message takes 0.1 s", message: 0.1, quiet: 0.6 },
  { words: "real time", real: 1 },
  { words: "5 × real time", real: 5 },
];
const AHEAD = 0.1; // the run is at most this far ahead of the picture, in wall-clock seconds
const LATE = 0.3; // a picture that is at most this far behind the run still shows the present, in wall-clock seconds
const PANEL_MS = 100; // milliseconds between two updates of the panel
const SLOW_MS = 1500; // after this time without an answer, the page says that the code is computing

const COMPUTING = "your code is computing …";

const KEYS = [
  ["Space", "play or pause"], [".", "one event on"], [",", "one event back"], ["Home", "the beginning"], ["End", "the present"],
  ["+", "faster"], ["-", "slower"], ["0 … 9", "choose a server"], ["Shift+0 … 9", "choose the link to that server"],
  ["Esc", "choose nothing"], ["c", "crash or restart; cut or mend a link"], ["[  ]", "cut or mend one direction"], ["z", "pause or resume a server"],
  ["x", "disconnect or connect a server"], ["p", "propose"], ["P", "propose five"], ["s", "take a snapshot"], ["m", "hold the next message to arrive"],
  ["n", "let held messages go"], ["h", "heal the network"], ["u", "lose messages, or stop losing them"], ["Backspace", "go on from the moment shown"],
  ["b", "bring back what came after that moment"], ["/", "type a command"], ["w", "save"], ["l", "load your code again"], ["d", "dark or light theme"], ["?", "this help"],
];

class Play {
  constructor(info) {
    this.info = info;
    const features = new Set(info.features);
    this.has = (feature) => features.has(feature);
    this.clerks = Array.from({ length: info.clerks }, (_, number) => FIRST_CLERK + number);
    this.clerkEvents = new Map(this.clerks.map((number) => [number, []]));
    this.model = new Model(info.servers, []);
    this.flights = new Flights();
    this.quiet = new Quiet(info.servers);
    this.terms = 0;
    this.steps = [];
    this.generation = 0;
    this.now = this.t = 0;
    this.index = -1;
    this.playing = false;
    this.speed = 3;
    this.failure = null;
    this.selected = {};
    this.states = this.model.at(-1);
    this.visible = [];
    this.network = { cut: new Set(), off: new Set(), unreliable: false };
    this.frames = 0;
    this.before = 0;
    this.updated = 0;
    this.colours = readColours();
    this.stage = new Stage($("picture"), info.servers, this.clerks);
    this.panel = new Panel(this);
    this.link = new Link((answer) => this.#take(answer), () => this.#lost());
    this.#buttons();
    this.#listen();
    this.setSpeed(this.speed);
    this.link.ask(() => this.#request("look"), () => {
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.toggle();
    });
    requestAnimationFrame((time) => this.#frame(time));
  }

  // --- the session ---

  #request(what, fields = {}) {
    return { do: what, since: this.model.events.length, generation: this.generation, steps: this.steps.length, ...fields };
  }

  #take(answer) {
    const { model } = this;
    const again = answer.generation !== this.generation;
    if (answer.first < model.events.length) {
      model.cut(answer.first);
      this.flights.clear();
      this.quiet.clear();
      for (const events of this.clerkEvents.values()) events.length = 0;
      for (const event of model.events) this.#note(event);
    }
    for (const event of answer.events) {
      model.add(event);
      const { terms } = model;
      if (Number.isInteger(event.message?.term) && event.message.term > 0) terms.add(event.message.term);
      this.#note(event);
    }
    if (model.terms.size !== this.terms) {
      this.terms = model.terms.size;
      nameTerms(model.terms);
    }
    this.generation = answer.generation;
    this.now = answer.now;
    this.flights.reconcile(answer.flights, answer.held, answer.now);
    this.held = answer.held;
    this.steps.length = answer.firstStep;
    for (const step of answer.steps) this.steps.push({ ...step, cut: new Set(step.cut.map((pair) => pair.join(" "))), off: new Set(step.off) });
    if (answer.message) this.say(answer.message);
    else if ($("notice").textContent === COMPUTING) this.say("");
    this.panel.files(answer.message, answer.files);
    $("undo").disabled = !answer.canUndo;
    this.#fail(answer.failure);
    if (again) this.t = this.now;
    this.t = Math.min(this.t, this.now);
    this.moved = true;
  }

  #note(event) {
    const send = this.model.asked(event);
    if (["boot", "crash", "call", "result"].includes(event.e)) this.clerkEvents.get(event.server)?.push(event);
    this.flights.add(event, send);
    this.quiet.add(event, send);
  }

  #lost() {
    this.playing = false;
    this.#playButton();
    this.say("raftlab play has ended, or cannot be reached: look at the terminal in which you started it");
  }

  #fail(failure) {
    if (JSON.stringify(failure) === JSON.stringify(this.failure)) return;
    this.failure = failure;
    $("failure").hidden = !failure;
    if (!failure) return;
    $("failure-text").textContent = failure.text;
    $("failure-rule").textContent = failure.rows.find(([name]) => name === "rule")?.[1] ?? "";
    const rest = failure.rows.filter(([name]) => name !== "rule").flatMap(([name, text]) => [el("dt", "", name), el("dd", "", text)]);
    const parts = rest.length ? [el("dl", "", ...rest)] : [];
    if (failure.events.length) parts.push(el("h4", "", "what led there"), el("pre", "", failure.events.join("\n")));
    if (failure.detail) parts.push(el("h4", "", "details"), el("pre", "", failure.detail));
    $("failure-more").replaceChildren(...parts);
    $("failure-toggle").hidden = !parts.length;
  }

  /** Whether the picture shows the past: a moment earlier than the run's time. */
  get past() {
    return this.now - this.t > (this.playing ? LATE * this.#rate(this.t) : 0);
  }

  /** Carry out a scenario command. `exact` returns whether the command must happen at the moment that is shown, even if
   * the run is only a little ahead of that moment. */
  act(line, then = () => {}, exact = () => false) {
    let past = null;
    let note = line.replace(" ? ", " ");
    const request = () => {
      // Decide this only now, because an action before this one may have brought the page to the present.
      past = this.past || exact() ? this.t : null;
      if (past !== null && this.steps.some((step) => step.began > past && !step.line.startsWith("wait "))) {
        note = "what came after this moment is left out now; b brings it back";
      }
      return this.#request("act", { line, past });
    };
    this.link.ask(request, (answer) => {
      if (answer.message) {
        this.t = Math.min(past ?? this.t, this.now); // the command was refused
        return;
      }
      // If the page is paused, show what the action did.
      if (!this.playing) this.t = this.now;
      this.say(note);
      then();
    });
  }

  // --- time ---

  toggle() {
    if (!this.playing && this.failure && this.t >= this.now) {
      this.say("the run has ended: go back to a moment before its end");
      return;
    }
    const { past } = this;
    this.playing = !this.playing;
    if (!this.playing && !past) this.t = this.now;
    this.moved = true;
    this.#playButton();
  }

  #playButton() {
    $("play").setAttribute("aria-pressed", String(this.playing));
    $("play").setAttribute("aria-label", this.playing ? "pause" : "play");
    $("play").textContent = this.playing ? "❚❚" : "▶";
  }

  pause() {
    if (this.playing) this.toggle();
  }

  goTo(time) {
    this.pause();
    this.t = Math.max(0, Math.min(this.now, time));
    this.moved = true;
  }

  stepOn() {
    this.pause();
    const next = this.model.events.find((event) => event.t > this.t);
    if (next && next.t <= this.now) this.goTo(next.t);
    else if (!this.failure) this.link.ask(() => this.#request("step"), () => this.goTo(this.now));
  }

  stepBack() {
    this.goTo(this.model.events.findLast((event) => event.t < this.t)?.t ?? 0);
  }

  setSpeed(speed) {
    this.speed = Math.max(0, Math.min(SPEEDS.length - 1, speed));
    $("speed").textContent = SPEEDS[this.speed].words;
    $("slower").disabled = this.speed === 0;
    $("faster").disabled = this.speed === SPEEDS.length - 1;
  }

  /** Seconds of the lab's time per wall-clock second, at a moment. */
  #rate(time) {
    const { real, message, quiet } = SPEEDS[this.speed];
    if (real) return real;
    let sum = 0;
    let count = 0;
    for (const flight of this.flights.at(time)) {
      const seconds = flight.speedAt(time);
      if (flight.heldAt(time) || !Number.isFinite(seconds) || seconds <= 0) continue;
      sum += Math.log(seconds);
      count++;
    }
    return count ? Math.min(quiet, Math.exp(sum / count) / message) : quiet;
  }

  /** Let the picture's time advance by a number of wall-clock seconds. */
  #goOn(seconds) {
    let left = seconds;
    // Stop at each moment at which a message is sent, because time runs more slowly from then on.
    for (let round = 0; round < 20 && left > 1e-6 && this.t < this.now; round++) {
      const rate = this.#rate(this.t);
      const end = Math.min(this.now, this.t + rate * left, this.flights.nextStart(this.t));
      left -= (end - this.t) / rate;
      this.t = end;
    }
    // The run stays a little ahead of the picture, measured in wall-clock time. Both advance at the lower of the two rates.
    const rate = Math.min(this.#rate(this.now), this.#rate(this.t));
    if (!this.failure && !this.link.busy && this.now - this.t < (rate * AHEAD) / 2) {
      const to = this.now + Math.max(0.00006, rate * AHEAD);
      this.link.ask(() => this.#request("advance", { to, stop: !SPEEDS[this.speed].real }), (answer) => answer.message && this.pause());
    }
    if (this.failure && this.t >= this.now) this.pause();
  }

  // --- a frame ---

  #frame(time) {
    const passed = Math.min(0.1, (time - this.before) / 1000);
    this.before = time;
    this.frames++;
    if (this.playing) this.#goOn(passed);
    if (this.playing || this.moved) this.paint(time);
    if (this.link.busy && time - this.link.since > SLOW_MS) this.say(COMPUTING);
    requestAnimationFrame((next) => this.#frame(next));
  }

  /** Show the moment `t`. */
  paint(time = performance.now()) {
    const { model, t } = this;
    const { events } = model;
    if (this.index >= events.length || (this.index >= 0 && events[this.index].t > t)) this.index = -1;
    while (this.index + 1 < events.length && events[this.index + 1].t <= t) this.index++;
    this.states = model.at(this.index);
    this.visible = [...this.flights.at(t)];
    const step = this.steps.findLast((one) => one.began <= t);
    this.network = step ?? { cut: new Set(), off: new Set(), unreliable: false };
    const clerks = new Map(this.clerks.map((number) => [number, this.clerkAt(number)]));
    this.stage.paint({ time: t, states: this.states, flights: this.visible, cut: this.network.cut, off: this.network.off, colours: this.colours, selected: this.selected, quiet: this.quiet, clerks });
    $("clock").textContent = `${t.toFixed(4)} s`;
    if (this.moved || time - this.updated > PANEL_MS) {
      this.updated = time;
      this.moved = false;
      this.#controls();
      this.panel.update();
    }
  }

  #controls() {
    const slider = $("time");
    slider.max = String(Math.max(this.now, 1e-3));
    slider.value = String(this.t);
    const text = `${this.t.toFixed(3)} of ${this.now.toFixed(3)} s`;
    slider.setAttribute("aria-valuetext", text);
    const { past } = this;
    $("when").textContent = past ? `the past: ${text}` : `${this.t.toFixed(3)} s`;
    $("rewind").disabled = !past;
    document.body.classList.toggle("past", past);
    const { places, radius } = this.stage;
    for (const node of this.nodes) {
      const number = Number(node.dataset.number);
      const [x, y] = places.get(number) ?? [0, 0];
      const size = 2 * this.stage.sizeOf(number);
      const place = `${Math.round(x)} ${Math.round(y)} ${Math.round(radius)}`;
      if (node.dataset.place !== place) {
        node.dataset.place = place;
        Object.assign(node.style, { left: `${x - size / 2}px`, top: `${y - size / 2}px`, width: `${size}px`, height: `${size}px` });
      }
      const s = this.states[number];
      const words = s
        ? `S${number}, ${roleOf(s)}, term ${s.term}${this.has("log") ? `, log to ${lastIndex(s)}, commit ${s.commit}` : ""}${this.network.off.has(number) ? ", off the network" : ""}`
        : `${nameOf(number)}, ${this.clerkAt(number).words || "idle"}`;
      if (node.getAttribute("aria-label") !== words) node.setAttribute("aria-label", words);
      node.setAttribute("aria-pressed", String(this.selected.server === number));
    }
  }

  // --- what the panel and the picture need to know ---

  /** Whether a clerk is up at the shown moment, and what it does. */
  clerkAt(number) {
    const events = this.clerkEvents.get(number);
    const last = events.findLast((event) => event.t <= this.t);
    const up = last !== undefined && last.e !== "crash";
    return { up, words: last?.e === "call" ? `${last.method}(${[].concat(last.message).map(shown).join(", ")})` : "" };
  }

  /** The members that the last `members` command asked for; if there is none, the initial members. */
  get members() {
    const asked = this.steps.findLast((step) => step.began <= this.t && step.line.startsWith("members "));
    if (!asked) return new Set(Array.from({ length: this.info.members || this.info.servers }, (_, number) => number));
    return new Set([...asked.line.split(" to")[1].matchAll(/S(\d+)/g)].map(([, number]) => Number(number)));
  }

  /** The holds that the user has created and not ended before the shown moment. */
  activeHolds() {
    const active = new Map();
    for (const { began, line } of this.steps) {
      if (began > this.t) break;
      const [command, name] = line.split(" ");
      if (command === "hold") active.set(name, { name, line });
      else if (command === "release" || command === "drop") active.delete(name);
    }
    return [...active.values()];
  }

  // --- what the user does ---

  choose(selected) {
    this.selected = selected;
    this.moved = true;
  }

  catch(flight) {
    const same = ["leg", "caller", "called", "method"];
    const others = this.visible.filter((one) => !one.heldAt(this.t) && same.every((part) => one[part] === flight[part]));
    const earlier = others.filter((one) => one.fate !== "lost" && one.arrives < flight.arrives).length;
    const line = `catch ? ${flight.leg} of ${flight.method} from ${nameOf(flight.caller)} to ${nameOf(flight.called)}`;
    // If the run has delivered the message, but the picture still shows it in flight, the run must go back a little.
    this.act(earlier ? `${line} nth ${earlier + 1}` : line, () => {}, () => flight.end !== null);
  }

  release(flight) {
    if (flight.hold) this.act(`release ${flight.hold}`);
  }

  lose(flight) {
    if (flight.hold) this.act(`drop ${flight.hold}`);
  }

  press(flight) {
    if (flight.heldAt(this.t)) this.release(flight);
    else if (flight.fate !== "lost") this.catch(flight);
  }

  toggleCut(from, to) {
    this.act(`${this.network.cut.has(`${from} ${to}`) ? "mend" : "cut"} ${nameOf(from)} ${nameOf(to)}`);
  }

  #leader() {
    const leaders = this.states.filter((s) => s.up && s.role === "leader");
    return leaders.sort((one, other) => other.term - one.term)[0];
  }

  /** Carry out the action of a key. Returns whether the key has one. */
  key(key) {
    const { selected, network } = this;
    const number = selected.server;
    const s = this.states[number];
    const name = number === undefined ? "" : nameOf(number);
    const [one, other] = selected.link ?? [];
    switch (key) {
      case "c":
        if (selected.link) {
          const cut = [[one, other], [other, one]].filter(([from, to]) => network.cut.has(`${from} ${to}`));
          const wanted = cut.length ? cut : [[one, other], [other, one]];
          for (const [from, to] of wanted) this.act(`${cut.length ? "mend" : "cut"} ${nameOf(from)} ${nameOf(to)}`);
        } else if (name) this.act(`${(s ?? this.clerkAt(number)).up ? "crash" : "restart"} ${name}`);
        break;
      case "[":
        if (selected.link) this.toggleCut(one, other);
        break;
      case "]":
        if (selected.link) this.toggleCut(other, one);
        break;
      case "z":
        if (s?.up) this.act(`${s.paused ? "resume" : "pause"} ${name}`);
        break;
      case "x":
        if (name) this.act(`${network.off.has(number) ? "connect" : "disconnect"} ${name}`);
        break;
      case "p":
      case "P": {
        const to = s ?? this.#leader();
        if (!to) this.say("no server leads: choose one");
        else this.act(`propose S${to.server}${key === "P" ? " 5" : ""}`);
        break;
      }
      case "s":
        if (s) this.act(`snapshot ${name}`);
        break;
      case "m": {
        const next = this.visible.filter((flight) => !flight.heldAt(this.t) && flight.fate !== "lost");
        next.sort((a, b) => a.arrives - b.arrives);
        if (next.length) this.catch(next[0]);
        else this.say("no message is on its way");
        break;
      }
      case "n": {
        const holds = new Set([...this.visible.filter((flight) => flight.heldAt(this.t)).map((flight) => flight.hold), ...this.activeHolds().map((hold) => hold.name)]);
        for (const hold of holds) if (hold) this.act(`release ${hold}`);
        if (!holds.size) this.say("nothing is held");
        break;
      }
      case "h": this.act("heal"); break;
      case "u": this.act(network.unreliable ? "reliable" : "unreliable"); break;
      case "b": if (!$("undo").disabled) this.link.ask(() => this.#request("undo")); break;
      case "Backspace": if (this.past) this.link.ask(() => this.#request("rewind", { to: this.t })); break;
      case "w": this.link.ask(() => this.#request("save")); break;
      case "l": this.link.ask(() => this.#request("reload"), (answer) => answer.message || this.say("your code was loaded again, and everything was repeated with it")); break;
      case " ": this.toggle(); break;
      case ".": this.stepOn(); break;
      case ",": this.stepBack(); break;
      case "Home": this.goTo(0); break;
      case "End": this.goTo(this.now); break;
      case "+": case "=": this.setSpeed(this.speed + 1); break;
      case "-": this.setSpeed(this.speed - 1); break;
      case "/": $("line").focus(); break;
      case "d": this.switchTheme(); break;
      case "?": $("help").showModal(); break;
      case "Escape": this.choose({}); break;
      default: return false;
    }
    return true;
  }

  switchTheme() {
    setTheme(theme() === "dark" ? "light" : "dark");
    this.recolour();
  }

  recolour() {
    this.colours = readColours();
    this.moved = true;
  }

  say(text) {
    if ($("notice").textContent !== text) $("notice").textContent = text;
  }

  // --- the page ---

  #buttons() {
    const { info } = this;
    document.title = `${info.lab} · raftlab play`;
    $("name").textContent = `Lab ${info.lab}, ${info.title}`;
    const facts = [info.impl, `${info.servers} servers`, info.clerks && `${info.clerks} clerks`, `seed ${info.seed}`, info.schedule && `schedule ${info.schedule}`];
    $("facts").textContent = facts.filter(Boolean).join(" · ");
    this.nodes = [...Array(info.servers).keys(), ...this.clerks].map((number) => {
      const node = el("button", "node", "");
      node.dataset.number = number;
      node.setAttribute("aria-label", nameOf(number));
      node.onclick = () => this.choose(this.selected.server === number ? {} : { server: number });
      $("stage").append(node);
      return node;
    });
    const press = { save: "w", reload: "l", theme: "d", "help-button": "?", heal: "h", unreliable: "u", "to-start": "Home", back: ",", play: " ", on: ".", "to-end": "End", rewind: "Backspace", undo: "b", slower: "-", faster: "+" };
    for (const [id, key] of Object.entries(press)) $(id).onclick = () => this.key(key);
    $("check").onclick = () => this.act("check");
    $("help-close").onclick = () => $("help").close();
    $("failure-toggle").onclick = () => {
      const open = $("failure-more").hidden;
      $("failure-more").hidden = !open;
      $("failure-toggle").setAttribute("aria-expanded", String(open));
      this.moved = true;
    };
    $("time").oninput = (event) => this.goTo(Number(event.target.value));
    for (const [key, what] of KEYS) $("keys").append(el("dt", "", el("kbd", "", key)), el("dd", "", what));
  }

  #listen() {
    document.addEventListener("keydown", (event) => this.#onKey(event));
    // After a mouse click on a button, the button loses the focus, so that the space bar plays and pauses instead of
    // pressing the button again.
    document.addEventListener("click", (event) => event.detail > 0 && event.target.closest("button")?.blur());
    const stage = $("stage");
    const under = (event) => {
      const box = $("picture").getBoundingClientRect();
      return this.stage.under(event.clientX - box.left, event.clientY - box.top);
    };
    stage.addEventListener("click", (event) => {
      if (event.target !== $("picture")) return;
      const found = under(event);
      if (found?.flight) this.press(found.flight);
      else this.choose(found ?? {});
    });
    stage.addEventListener("mousemove", (event) => this.#tip(event, event.target === $("picture") ? under(event) : null));
    stage.addEventListener("mouseleave", (event) => this.#tip(event, null));
    addEventListener("resize", () => (this.moved = true));
    new ResizeObserver(() => (this.moved = true)).observe(stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
  }

  #tip(event, found) {
    const tip = $("tip");
    tip.hidden = !found?.flight;
    $("picture").style.cursor = found ? "pointer" : "default";
    if (tip.hidden) return;
    tip.textContent = sentence(found.flight.event);
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.clientY + 18}px`;
  }

  #onKey(event) {
    // On some keyboards, [ and ] need AltGr, which counts as Ctrl and Alt.
    const commands = (event.ctrlKey || event.altKey) && !event.getModifierState("AltGraph");
    if (commands || event.metaKey || $("help").open) return;
    const { target, key } = event;
    const typing = target.matches("input:not([type=range], [type=checkbox]), select");
    if (typing) {
      if (key === "Escape") $("play").focus();
      return;
    }
    if ((key === " " || key === "Enter") && target.matches("button, summary, input")) return;
    if (target === $("time") && /^Arrow/.test(key)) {
      if (key === "ArrowRight" || key === "ArrowUp") this.stepOn();
      else this.stepBack();
      event.preventDefault();
      return;
    }
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
    const number = Number(digit ?? Infinity);
    const { server } = this.selected;
    const linked = event.shiftKey && server !== undefined && server !== number && !isClerk(server);
    if (number < this.info.servers && (linked || !event.shiftKey)) {
      this.choose(linked ? { link: [Math.min(server, number), Math.max(server, number)] } : { server: number });
      event.preventDefault();
    } else if (this.key(key)) event.preventDefault();
  }
}

addEventListener("error", (event) => {
  $("notice").textContent = `this page had an error and may not show everything: ${event.message}`;
});
restoreTheme();
// For tests, and for the browser's console.
window.raftlab = new Play(JSON.parse($("info").textContent));
