// The clerks' part of the picture (labs 3A and 3B): their lanes, a bar for each operation, and for each key a line through
// its operations in an order that explains their results. An operation that has no place in any order is red.

import { FIRST_CLERK, nameOf } from "./words.js";
import { FONT } from "./theme.js";

const BAR = 9; // the width of an operation's bar

function line(brush, x1, y1, x2, y2) {
  brush.beginPath();
  brush.moveTo(x1, y1);
  brush.lineTo(x2, y2);
  brush.stroke();
}

/** The lanes and the bars. `head`: the height of the row with the lanes' names; `bottom`: where lanes end. */
export function drawOperations(picture, head, bottom) {
  const { scene, brush, colours, height } = picture;
  brush.strokeStyle = colours.faint;
  brush.lineWidth = 1;
  brush.setLineDash([2, 5]);
  for (let clerk = 0; clerk < scene.clerks; clerk++) {
    const x = picture.lane(FIRST_CLERK + clerk);
    line(brush, x, head, x, bottom);
  }
  brush.setLineDash([]);
  for (const one of scene.operations.values()) {
    const start = picture.at(one.start);
    const end = one.end < 0 ? height : picture.at(one.end);
    if (end < head || start > height) continue;
    const top = Math.max(head, start);
    brush.globalAlpha = one.end < 0 ? 0.3 : 0.55;
    brush.fillStyle = one.unplaced ? colours.bad : colours.accent;
    brush.fillRect(picture.lane(one.clerk) - BAR / 2, top, BAR, Math.max(3, Math.min(height, end) - top));
  }
  brush.globalAlpha = 0.6;
  brush.strokeStyle = brush.fillStyle = colours.good;
  brush.lineWidth = 1.2;
  for (const order of scene.orders) drawOrder(picture, order, head);
  brush.globalAlpha = 1;
}

function drawOrder(picture, order, head) {
  const { brush, height } = picture;
  let before = null;
  for (const one of order) {
    // The moment at which the operation may have happened: after its call, and after the previous operation of the order.
    const y = Math.max(picture.at(one.start) + 3, before ? before[1] : -Infinity);
    const x = picture.lane(one.clerk);
    if (before && y >= head && before[1] <= height) line(brush, ...before, x, y);
    if (y >= head && y <= height) brush.fillRect(x - 3, y - 1.5, 6, 3);
    before = [x, y];
  }
}

/** The names of the lanes, in the row above the lanes. `faded`: whether a clerk's events are hidden. */
export function drawClerkNames(picture, head, faded) {
  const { brush, colours, scene } = picture;
  brush.font = `bold 13px ${FONT}`;
  brush.fillStyle = colours.ink;
  for (let clerk = 0; clerk < scene.clerks; clerk++) {
    const number = FIRST_CLERK + clerk;
    brush.globalAlpha = faded(number) ? 0.4 : 1;
    brush.fillText(nameOf(number), picture.lane(number) - 7, head / 2);
  }
  brush.globalAlpha = 1;
  brush.font = `11px ${FONT}`;
}
