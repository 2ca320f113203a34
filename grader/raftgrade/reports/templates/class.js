// Sorting and searching the heat map. Everything else on the page works without a script.
"use strict";
(() => {
  const body = document.querySelector(".heat tbody");
  const sort = document.getElementById("sort");
  const find = document.getElementById("find");
  if (!body || !sort || !find) return;
  const rows = [...body.rows];
  const byName = (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true });
  const orders = { mark: (a, b) => b.dataset.mark - a.dataset.mark || byName(a, b), name: byName };
  sort.addEventListener("change", () => body.append(...rows.sort(orders[sort.value])));
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.dataset.name.includes(wanted);
  });
  // A student's page begins at its top.
  addEventListener("hashchange", () => scrollTo(0, 0));
})();
