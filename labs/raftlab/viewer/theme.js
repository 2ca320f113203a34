// The page's colours for the canvases. style.css defines them.

const NAMES = ["bg", "panel", "ink", "soft", "faint", "line", "accent", "bad", "good", "warn", "band"];
const TERMS = 8;

export const FONT = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';

export function readColours() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  const colours = Object.fromEntries(NAMES.map((name) => [name, value(`--${name}`)]));
  colours.terms = Array.from({ length: TERMS }, (_, number) => value(`--term-${number}`));
  return colours;
}

// The colour of a term depends on its position among the terms of the run, so that successive terms of the run differ in
// colour, even if they are 1000 and 2000.
const places = new Map();

export function nameTerms(terms) {
  [...terms].sort((one, two) => one - two).forEach((term, place) => places.set(term, place % TERMS));
}

/** Term 0, before any election, and an unknown term have no colour of their own. */
export function termColour(colours, term) {
  return places.has(term) ? colours.terms[places.get(term)] : colours.faint;
}

/** The class that gives a DOM element its term's colour. */
export const termClass = (term) => (places.has(term) ? `term-${places.get(term)}` : "term-none");

/** "dark" or "light": the reader's choice on this page, or else the system's preference. */
export function theme() {
  return document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

export function setTheme(name) {
  document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem("raftlab-theme", name);
  } catch {
    // A page opened from a file may have no storage. Then the choice is kept only until the page is closed.
  }
}

export function restoreTheme() {
  try {
    const name = localStorage.getItem("raftlab-theme");
    if (name === "dark" || name === "light") document.documentElement.dataset.theme = name;
  } catch {
    // No storage: see above.
  }
}

/** Fit a canvas to its place on the page, with the screen's full resolution. Returns its width and height in CSS pixels. */
export function fit(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const brush = canvas.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { brush, width, height };
}
