// Sorting and searching the tables of submissions, and printing what is folded. Everything else works without a script.
"use strict";
(() => {
  const bodies = [...document.querySelectorAll(".heat tbody")];
  const sort = document.getElementById("sort");
  const find = document.getElementById("find");
  const byName = (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true });
  const orders = { mark: (a, b) => b.dataset.mark - a.dataset.mark || byName(a, b), name: byName };
  sort?.addEventListener("change", () => {
    for (const body of bodies) body.append(...[...body.rows].sort(orders[sort.value]));
  });
  find?.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    for (const body of bodies) for (const row of body.rows) row.hidden = !row.dataset.name.includes(wanted);
  });
  // A student's page begins at its top.
  addEventListener("hashchange", () => {
    if (location.hash.startsWith("#s-") || location.hash === "#class") scrollTo(0, 0);
  });
  // On paper nothing can be unfolded.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const each of folded) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of folded) each.open = false;
  });
})();
