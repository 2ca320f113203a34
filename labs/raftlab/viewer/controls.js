// The buttons above the picture, the keys, and the box with the failure. Each function acts on the `app` passed to it.

import { HIDDEN_AT_FIRST, KINDS } from "./scene.js";
import { el } from "./elements.js";
import { FIRST_CLERK, nameOf, sentence } from "./words.js";

const $ = (id) => document.getElementById(id);

export const KEYS = [
  [["ArrowDown", "j"], "next event", (app) => app.stepBy(1)],
  [["ArrowUp", "k"], "previous event", (app) => app.stepBy(-1)],
  [["n"], "next event of the same server", (app) => app.stepBy(1, true)],
  [["N"], "previous event of the same server", (app) => app.stepBy(-1, true)],
  [["PageDown"], "one screen down", (app) => app.page(1)],
  [["PageUp"], "one screen up", (app) => app.page(-1)],
  [["Home"], "the beginning", (app) => app.go(app.scene.next(-1, 1) ?? -1)],
  [["End"], "the end", (app) => app.go(app.scene.next(app.count, -1) ?? app.count - 1)],
  [["f"], "go to the failure", (app) => app.goToFailure()],
  [["/"], "search", () => $("search").focus()],
  [["]"], "next match", (app) => app.nextFound(1)],
  [["["], "previous match", (app) => app.nextFound(-1)],
  [["h"], "hide or show heartbeats", (app) => app.toggleKind("heartbeats")],
  [["t"], "show time to scale, or one row per event", (app) => app.setSpacing(app.spacing === "time" ? "event" : "time")],
  [["+", "="], "zoom in", (app) => app.zoomBy(1.4)],
  [["-"], "zoom out", (app) => app.zoomBy(1 / 1.4)],
  [[" "], "play or pause", (app) => app.play()],
  [["d"], "dark or light theme", (app) => app.switchTheme()],
  [["?"], "this help", () => $("help").showModal()],
];
const SHOWN_AS = { ArrowDown: "↓", ArrowUp: "↑", " ": "space", PageDown: "PgDn", PageUp: "PgUp" };

export function setUp(app) {
  title(app);
  showFailure(app);
  kinds(app);
  servers(app);
  $("search").oninput = (event) => app.search(event.target.value);
  $("search").onkeydown = (event) => {
    if (event.key === "Enter") app.nextFound(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") {
      event.target.value = "";
      app.search("");
      $("scroller").focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  $("only").onchange = (event) => app.showOnly(event.target.checked);
  $("spacing").onclick = () => app.setSpacing(app.spacing === "time" ? "event" : "time");
  $("closer").onclick = () => app.zoomBy(1.4);
  $("further").onclick = () => app.zoomBy(1 / 1.4);
  $("play").onclick = () => app.play();
  $("theme").onclick = () => app.switchTheme();
  $("help-button").onclick = () => $("help").showModal();
  $("help-close").onclick = () => $("help").close();
  for (const [keys, what] of KEYS) {
    const caps = keys.flatMap((key) => [el("kbd", "", SHOWN_AS[key] ?? key), " "]);
    $("keys").append(el("dt", "", ...caps), el("dd", "", what));
  }
  document.addEventListener("keydown", (event) => onKey(app, event));
}

function onKey(app, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const target = event.target;
  if (target.tagName === "INPUT" && target.type !== "checkbox") return;
  // The space bar presses a focused button, so it must not play the run as well.
  if ((target.tagName === "BUTTON" || target.tagName === "SUMMARY" || target.tagName === "INPUT") && event.key === " ") return;
  const bound = KEYS.find(([keys]) => keys.includes(event.key));
  if (!bound) return;
  event.preventDefault();
  bound[2](app);
}

function title({ data, scene }) {
  const { header } = data;
  const name = header.test === undefined ? data.name : `${header.test}@${header.seed}`;
  document.title = `${name} · raftlab`;
  $("name").textContent = name;
  const length = scene.events.length ? `${scene.times[scene.events.length - 1].toFixed(1)} s` : "";
  const facts = [header.lab && `lab ${header.lab}`, header.network, `${header.servers} servers`, header.clerks && `${header.clerks} clerks`, length, `${scene.events.length.toLocaleString("en")} events`];
  $("facts").textContent = facts.filter(Boolean).join(" · ");
  $("outcome").textContent = data.failure ? "failed" : data.ends ? "no failure" : "";
  $("outcome").className = data.failure ? "bad" : "good";
  $("notices").replaceChildren(...data.notices.map((notice) => el("p", "notice", notice)));
}

function showFailure(app) {
  const failure = app.data.failure;
  $("failure").hidden = !failure;
  if (!failure) return;
  $("failure-text").textContent = failure.text;
  $("go-failure").onclick = () => app.goToFailure();
  $("go-failure").hidden = app.fails < 0;
  $("failure-rule").textContent = failure.rows.find(([name]) => name === "rule")?.[1] ?? "";
  const rows = failure.rows.filter(([name]) => name !== "rule").flatMap(([name, text]) => [el("dt", "", name), el("dd", "", text)]);
  const parts = rows.length ? [el("dl", "", ...rows)] : [];
  if (failure.events.length) {
    parts.push(el("h2", "", "what led there"), el("ol", "led", ...failure.events.map((line) => el("li", "", ledLine(app, line)))));
  }
  if (failure.detail) parts.push(el("h2", "", "details"), el("pre", "", failure.detail));
  $("failure-more").replaceChildren(...parts);
  $("failure-toggle").hidden = !parts.length;
  $("failure-toggle").onclick = () => {
    const open = $("failure-more").hidden;
    $("failure-more").hidden = !open;
    $("failure-toggle").setAttribute("aria-expanded", String(open));
    app.resized();
  };
}

/** One line of "what led there" may stand for several events: it may combine messages to several servers, or a message that
 * was sent several times. Returns the sentences of these events. */
function standsFor(text) {
  const one = text.replace(/(?:, answered with success=True)?(?: \((?:its term was|the last of) [^()]*\))*$/, "");
  const [list, before] = /^(?:[SC]\d+→)?((?:[SC]\d+, )+[SC]\d+)(?=→|⇢| )/.exec(one) ?? / of ((?:S\d+, )+S\d+) to its /.exec(one)?.slice(0, 2) ?? [];
  if (list === undefined) return [text, one];
  const names = before.split(", ");
  const verbs = { apply: "applies", crash: "crashes", start: "starts", restart: "restarts" };
  return names.map((name) =>
    one.replace(list, list.replace(before, name)).replace(/^(\S+) (apply|crash|start|restart)(?= |$)/, (_, who, verb) => `${who} ${verbs[verb]}`),
  );
}

/** A line about an event that led to the failure. It is a button if the event is on this page. */
function ledLine(app, line) {
  const [, time, text] = /^\s*(\d+\.\d{3}) (.*)$/s.exec(line) ?? [];
  if (time === undefined) return el("span", "", line);
  const sentences = standsFor(text);
  let index = app.scene.eventAt(Number(time) - 0.0006) + 1;
  for (; index < app.count && app.scene.times[index] <= Number(time) + 0.0006; index++) {
    if (!sentences.includes(sentence(app.scene.events[index]))) continue;
    const found = index;
    const button = el("button", "", el("time", "", time), ` ${text}`);
    button.onclick = () => app.go(found);
    return button;
  }
  return el("span", "", line.trim());
}

const brief = (count) => (count < 1000 ? String(count) : `${(count / 1000).toFixed(count < 10_000 ? 1 : 0)}k`);

function kinds(app) {
  for (const [name, words, tip] of KINDS) {
    const button = el("button", "chip", words, el("small", "", ` ${brief(app.scene.counts[name])}`));
    button.title = `${tip}: ${app.scene.counts[name].toLocaleString("en")} events`;
    button.dataset.kind = name;
    button.disabled = app.scene.counts[name] === 0;
    button.setAttribute("aria-pressed", String(!HIDDEN_AT_FIRST.includes(name)));
    button.onclick = () => app.toggleKind(name);
    $("kinds").append(button);
  }
}

function servers(app) {
  const { servers: count, clerks } = app.scene;
  const numbers = [...Array(count).keys(), ...Array.from({ length: clerks }, (_, clerk) => FIRST_CLERK + clerk)];
  for (const server of numbers) {
    const button = el("button", "chip", nameOf(server));
    button.title = `show only events of ${nameOf(server)}, and of others selected here`;
    button.dataset.server = server;
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => app.toggleServer(server);
    $("servers").append(button);
  }
}
