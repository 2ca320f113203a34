// The panel beside the picture: the selected object and the actions for it, the network, messages, logs, events, and the
// session's commands. Text that students wrote is inserted only as text, never as HTML.

import { FIRST_CLERK, methodName, nameOf, sentence } from "./words.js";
import { entryAt, lastIndex, roleOf } from "./model.js";
import { cell, el } from "./elements.js";
import { isClerk, linkName } from "./names.js";
import { termClass } from "./theme.js";

const $ = (id) => document.getElementById(id);
const MOST_MESSAGES = 12;
const MOST_EVENTS = 8;
const MOST_CELLS = 14;

/** Set a text only if it changes, because every change costs time. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Update the rows of a list. `wanted` contains a pair for each row: its key, and a function that creates the row. Rows that
 * exist already are kept, with the keyboard focus. */
function rows(list, wanted) {
  const known = new Map([...list.children].map((row) => [row.dataset.key, row]));
  const keys = new Set(wanted.map(([key]) => String(key)));
  const focused = list.contains(document.activeElement);
  for (const [key, row] of known) if (!keys.has(key)) row.remove();
  wanted.forEach(([key, make], place) => {
    let row = known.get(String(key));
    if (!row) {
      row = make();
      row.dataset.key = key;
    }
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
  });
  if (focused && !list.contains(document.activeElement)) (list.querySelector("button") ?? $("play")).focus();
}

function button(words, key, action, title = "") {
  const made = el("button", "", words);
  made.type = "button";
  if (key) {
    made.append(" ", el("kbd", "", key));
    made.setAttribute("aria-keyshortcuts", key);
  }
  if (title) made.title = title;
  made.onclick = action;
  return made;
}

export class Panel {
  constructor(play) {
    this.play = play;
    this.shown = {}; // what each part shows, so that a part is created anew only if that has changed
    const { info } = play;
    const members = [...Array(info.servers).keys(), ...play.clerks];
    this.#matrix(members);
    this.#holdForm(members);
    $("line-form").onsubmit = (event) => {
      event.preventDefault();
      const line = $("line").value.trim();
      if (line) play.act(line, () => ($("line").value = ""));
    };
  }

  /** Show the moment that the page shows: the states of the servers and everything else. */
  update() {
    const { play } = this;
    this.#chosen();
    this.#network();
    this.#messages();
    this.#logs();
    this.#events();
    this.#done();
    this.#once("unreliable", play.network.unreliable, () => $("unreliable").setAttribute("aria-pressed", String(play.network.unreliable)));
  }

  #once(part, signature, make) {
    if (this.shown[part] === signature) return;
    this.shown[part] = signature;
    make();
  }

  // --- what was chosen ---

  #chosen() {
    const { selected, states, network, has } = this.play;
    const s = states[selected.server];
    if (s) {
      const last = lastIndex(s);
      const lastTerm = entryAt(s, last)?.term ?? s.baseTerm;
      const vote = s.vote === null ? "no vote" : `vote for S${s.vote}`;
      const log = has("log") ? ` · log to ${last}${last ? ` (term ${lastTerm ?? "?"})` : ""} · commit ${s.commit} · applied ${s.applied}` : "";
      write($("chosen-facts"), `term ${s.term} · ${vote}${log}`);
      this.#once("chosen", `S${s.server} ${roleOf(s)} ${network.off.has(s.server)}`, () => {
        $("chosen-name").replaceChildren(`S${s.server} `, el("span", `role ${s.up ? s.role : "down"} ${termClass(s.term)}`, roleOf(s)));
        this.#serverActions(s);
      });
    } else if (isClerk(selected.server ?? 0)) {
      const clerk = this.play.clerkAt(selected.server);
      write($("chosen-facts"), clerk.words || "no operation in progress");
      this.#once("chosen", `${selected.server} ${clerk.up}`, () => {
        $("chosen-name").textContent = nameOf(selected.server);
        this.#clerkActions(selected.server, clerk.up);
      });
    } else if (selected.link) {
      const [one, other] = selected.link;
      const [there, back] = [network.cut.has(`${one} ${other}`), network.cut.has(`${other} ${one}`)];
      write($("chosen-facts"), there && back ? "cut in both directions" : there || back ? "cut in one direction" : "open");
      this.#once("chosen", `${one} ${other} ${there} ${back}`, () => {
        $("chosen-name").textContent = `Link ${linkName(one, other)}`;
        this.#linkActions(one, other, there, back);
      });
    } else {
      this.#once("chosen", "nothing", () => {
        $("chosen-name").textContent = "Choose a server, a link or a message";
        $("chosen-facts").textContent = "Click it, or press a server's number. Click a message to hold it, and again to let it go.";
        $("actions").replaceChildren(...(has("log") && !this.play.clerks.length ? [button("propose to the leader", "p", () => this.play.key("p"))] : []));
        $("more-actions").replaceChildren();
      });
    }
  }

  /** Replace the action buttons. If one of them had the focus, the new button at the same place gets the focus. */
  #actions(buttons, more = []) {
    const place = [...$("actions").children].indexOf(document.activeElement);
    $("actions").replaceChildren(...buttons);
    $("more-actions").replaceChildren(...more);
    if (place >= 0) $("actions").children[Math.min(place, buttons.length - 1)]?.focus();
  }

  #serverActions(s) {
    const { play } = this;
    const { has, network } = play;
    const name = `S${s.server}`;
    const made = [];
    if (s.up) made.push(button("crash", "c", () => play.key("c")));
    else {
      const restart = button("restart", "c", () => play.key("c"));
      restart.disabled = !has("durable");
      if (restart.disabled) restart.title = "before lab 2C, servers save nothing, so they cannot restart; go back in time instead";
      made.push(restart);
    }
    if (s.up) made.push(button(s.paused ? "resume" : "pause", "z", () => play.key("z"), "stop its threads, or let them run again"));
    const off = network.off.has(s.server);
    made.push(button(off ? "connect" : "disconnect", "x", () => play.key("x"), "take it off the network, or put it back"));
    if (has("log") && !play.clerks.length && s.up) {
      made.push(button("propose", "p", () => play.key("p")), button("propose 5", "P", () => play.key("P")));
    }
    if (has("snapshots") && !has("service") && s.up) made.push(button("snapshot", "s", () => play.key("s"), "its service takes a snapshot"));
    const more = [];
    if (s.up && has("transfer")) more.push(this.#transfer(s, name));
    if (s.up && has("membership")) more.push(this.#members(name));
    this.#actions(made, more);
  }

  #transfer(s, name) {
    const target = el("select", "", ...this.#options(this.play.states.map((one) => one.server).filter((one) => one !== s.server)));
    const form = el("form", "form", el("label", "", "transfer leadership to ", target), el("button", "", "transfer"));
    form.onsubmit = (event) => {
      event.preventDefault();
      this.play.act(`transfer ${name} to ${nameOf(Number(target.value))}`);
    };
    return form;
  }

  #members(name) {
    const boxes = this.play.states.map(({ server }) => {
      const box = el("input", "");
      box.type = "checkbox";
      box.value = `S${server}`;
      box.checked = this.play.members.has(server);
      return [box, el("label", "", box, ` S${server}`)];
    });
    const form = el("form", "form", el("span", "", "members"), ...boxes.map(([, label]) => label), el("button", "", "change members"));
    form.onsubmit = (event) => {
      event.preventDefault();
      const chosen = boxes.map(([box]) => box).filter((box) => box.checked).map((box) => box.value);
      this.play.act(`members ${name} to ${chosen.join(" ")}`.trim());
    };
    return form;
  }

  #clerkActions(number, up) {
    const { play } = this;
    const name = nameOf(number);
    const op = el("select", "", ...["get", "put", "append", "swap"].map((word) => el("option", "", word)));
    op.value = "put";
    const field = (label, value) => {
      const input = el("input", "short");
      input.value = value;
      input.spellcheck = false;
      return [input, el("label", "", `${label} `, input)];
    };
    const [key, keyLabel] = field("key", "x");
    const [expected, expectedLabel] = field("expected", "-");
    const [value, valueLabel] = field("value", "1");
    const adapt = () => {
      expectedLabel.hidden = op.value !== "swap";
      valueLabel.hidden = op.value === "get";
    };
    op.onchange = adapt;
    adapt();
    const form = el("form", "form", el("label", "", "operation ", op), keyLabel, expectedLabel, valueLabel, el("button", "", "begin"));
    form.onsubmit = (event) => {
      event.preventDefault();
      const words = [key, ...(op.value === "swap" ? [expected] : []), ...(op.value === "get" ? [] : [value])].map((one) => one.value.trim());
      play.act(`op ${name} ${op.value} ${words.join(" ")}`);
    };
    this.#actions([button(up ? "crash" : "restart", "c", () => play.key("c"))], up ? [form] : []);
  }

  #linkActions(one, other, there, back) {
    const { play } = this;
    const [a, b] = [nameOf(one), nameOf(other)];
    this.#actions([
      button(there || back ? "mend both" : "cut both", "c", () => play.key("c")),
      button(`${there ? "mend" : "cut"} ${a}→${b}`, "[", () => play.key("[")),
      button(`${back ? "mend" : "cut"} ${b}→${a}`, "]", () => play.key("]")),
      button(`hold next ${a}→${b}`, "", () => play.act(`hold ? requests from ${a} to ${b} most 1`), `the next request of ${a} to ${b}`),
      button(`hold next ${b}→${a}`, "", () => play.act(`hold ? requests from ${b} to ${a} most 1`), `the next request of ${b} to ${a}`),
    ]);
  }

  // --- the network ---

  #options(numbers, none = "") {
    const first = none ? [Object.assign(el("option", "", none), { value: "" })] : [];
    return [...first, ...numbers.map((number) => Object.assign(el("option", "", nameOf(number)), { value: String(number) }))];
  }

  #matrix(members) {
    this.cells = new Map();
    const head = el("tr", "", el("td", ""), ...members.map((number) => Object.assign(el("th", "", nameOf(number)), { scope: "col" })));
    const body = members.map((from) => {
      const row = members.map((to) => {
        if (from === to || (isClerk(from) && isClerk(to))) return el("td", "");
        const press = el("button", "direction", "");
        press.onclick = () => this.play.toggleCut(from, to);
        this.cells.set(`${from} ${to}`, press);
        return el("td", "", press);
      });
      return el("tr", "", Object.assign(el("th", "", nameOf(from)), { scope: "row" }), ...row);
    });
    $("matrix").replaceChildren(el("thead", "", head), el("tbody", "", ...body));
  }

  #network() {
    const { network } = this.play;
    this.#once("network", [...network.cut].sort().join(), () => {
      for (const [pair, press] of this.cells) {
        const cut = network.cut.has(pair);
        const [from, to] = pair.split(" ").map((number) => nameOf(Number(number)));
        press.textContent = cut ? "✕" : "·";
        press.setAttribute("aria-pressed", String(cut));
        press.setAttribute("aria-label", `cut ${from} to ${to}`);
        press.title = `${from}→${to}: ${cut ? "cut" : "open"}`;
      }
    });
  }

  #holdForm(members) {
    const methods = ["request_vote", "append_entries"];
    const { has } = this.play;
    if (has("snapshots")) methods.push("install_snapshot");
    if (has("pre_vote")) methods.push("pre_vote");
    if (has("transfer")) methods.push("timeout_now");
    if (has("service")) methods.push("client_request");
    const named = methods.map((name) => Object.assign(el("option", "", methodName(name)), { value: name }));
    $("hold-method").replaceChildren(Object.assign(el("option", "", "any"), { value: "" }), ...named);
    $("hold-from").replaceChildren(...this.#options(members, "any"));
    $("hold-to").replaceChildren(...this.#options(members.filter((number) => number < FIRST_CLERK), "any"));
    $("hold-form").onsubmit = (event) => {
      event.preventDefault();
      const value = (id) => $(`hold-${id}`).value;
      const words = [`hold ? ${value("leg")}`];
      if (value("method")) words.push(`of ${value("method")}`);
      if (value("from")) words.push(`from ${nameOf(Number(value("from")))}`);
      if (value("to")) words.push(`to ${nameOf(Number(value("to")))}`);
      if (value("most")) words.push(`most ${value("most")}`);
      this.play.act(words.join(" "));
    };
  }

  // --- messages ---

  #messages() {
    const { play } = this;
    const flights = play.visible.filter((flight) => flight.fate !== "lost" && flight.fate !== "unused");
    flights.sort((one, other) => Number(other.heldAt(play.t)) - Number(one.heldAt(play.t)));
    const wanted = flights.slice(0, MOST_MESSAGES).map((flight) => {
      const held = flight.heldAt(play.t);
      const way = `${nameOf(flight.from)}→${nameOf(flight.to)} ${flight.name}`;
      return [`${flight.number} ${held}`, () => {
        const buttons = held
          ? [button("let go", "", () => play.release(flight)), button("lose", "", () => play.lose(flight))]
          : [button("hold", "", () => play.catch(flight))];
        for (const one of buttons) one.setAttribute("aria-label", `${one.textContent}: ${way}`);
        const pill = el("span", `pill ${termClass(flight.term)}`, flight.term === undefined ? "–" : `T${flight.term}`);
        return el("li", "", pill, el("span", "grow", way), ...buttons);
      }];
    });
    if (flights.length > MOST_MESSAGES) wanted.push([`more ${flights.length}`, () => el("li", "soft", `and ${flights.length - MOST_MESSAGES} more`)]);
    if (!flights.length) wanted.push(["none", () => el("li", "soft", "none at this moment")]);
    rows($("messages"), wanted);
    const holds = play.activeHolds();
    rows($("active-holds"), holds.map(({ name, line }) => [name, () => el("li", "", el("span", "grow", line), this.#end(name, "let go", "release"), this.#end(name, "lose", "drop"))]));
  }

  #end(name, words, command) {
    const made = button(words, "", () => this.play.act(`${command} ${name}`));
    made.setAttribute("aria-label", `${words} everything that ${name} holds`);
    return made;
  }

  // --- logs, events, commands ---

  #logs() {
    const { states, has } = this.play;
    $("logs").parentElement.hidden = !has("log");
    if (!has("log")) return;
    const end = Math.max(0, ...states.map(lastIndex));
    $("logs-none").hidden = end > 0;
    const first = Math.max(1, end - MOST_CELLS + 1);
    const signature = states.map((s) => `${s.base} ${s.commit} ${s.applied} ${s.up} ${s.entries.map((entry) => entry.term).join()}`).join(";");
    this.#once("logs", signature, () => {
      const wide = 5 + 6 * Math.max(2, String(Math.max(...this.play.model.terms, 0)).length);
      $("logs").style.setProperty("--cell", `${wide}px`);
      const head = [el("span", "who", "")];
      for (let index = first; index <= end; index++) head.push(el("span", "index", index % 5 === 0 || index === first ? String(index) : ""));
      const made = states.map((s) => {
        const cells = [el("span", "who", `S${s.server}`)];
        for (let index = first; index <= end; index++) cells.push(cell(s, index));
        return el("div", `strip${s.up ? "" : " off"}`, ...cells);
      });
      $("logs").replaceChildren(...(end ? [el("div", "strip", ...head), ...made] : []));
    });
  }

  #events() {
    const { model, index } = this.play;
    this.#once("events", `${this.play.generation} ${index}`, () => {
      const wanted = [];
      for (let number = index; number >= 0 && wanted.length < MOST_EVENTS; number--) {
        const event = model.events[number];
        wanted.unshift([`${this.play.generation} ${number}`, () => el("li", event.e === "line" ? "own" : "", el("time", "", event.t.toFixed(4)), ` ${sentence(event)}`)]);
      }
      rows($("events"), wanted);
    });
  }

  #done() {
    const { play } = this;
    const { steps, t } = play;
    this.#once("done", `${play.generation} ${steps.length}`, () => {
      const wanted = steps.map((step, number) => [step, number]).filter(([step]) => !step.line.startsWith("wait "));
      rows($("done"), wanted.map(([step, number]) => [`${play.generation} ${number}`, () => {
        const go = el("button", "plain", el("time", "", step.began.toFixed(4)), ` ${step.line}`);
        go.title = "go to this moment";
        go.onclick = () => play.goTo(step.began);
        return el("li", "", go);
      }]));
      $("done").scrollTop = $("done").scrollHeight;
    });
    for (const row of $("done").children) {
      const step = steps[Number(row.dataset.key.split(" ")[1])];
      row.classList.toggle("later", step !== undefined && step.began > t);
    }
  }

  files(message, commands) {
    if (!commands.length) return;
    $("files").replaceChildren(el("li", "", message), ...commands.map((line) => el("li", "", el("code", "", line))));
  }
}
