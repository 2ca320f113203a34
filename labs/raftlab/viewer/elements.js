// The elements that several parts of a page create. Text that students wrote becomes text, never HTML.

import { entryAt } from "./model.js";
import { field } from "./words.js";
import { termClass } from "./theme.js";

/** Create an element with classes and children. Children that are strings become text. */
export function el(tag, classes, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** One index of a server's log: the entry's term, and whether the server has committed and applied the entry. */
export function cell(s, index) {
  if (index <= s.base) {
    const box = el("span", "cell snapshot", "");
    box.title = `index ${index}: in the snapshot, which ends at ${s.base}`;
    return box;
  }
  const entry = entryAt(s, index);
  if (!entry) return el("span", "cell none", "");
  const state = index <= s.applied ? "applied" : index <= s.commit ? "committed" : "open";
  const term = entry.term === null ? "?" : String(entry.term);
  const box = el("span", `cell ${state} ${termClass(entry.term)}`, term);
  const command = entry.command === undefined ? "" : `, ${field("command", entry.command)}`;
  box.title = `index ${index}, term ${term}${command}: ${state === "open" ? "not known to be committed" : state}`;
  return box;
}
