"use strict";
// Sorting and filtering of the table and the statements, and charts that answer. Without it the page reads all the same.
document.documentElement.classList.add("scripted");

function option(select, value) {
  const made = document.createElement("option");
  made.value = made.textContent = value;
  select.append(made);
}

function listen(control, apply) {
  for (const event of ["input", "change"]) control.addEventListener(event, apply); // not every browser sends both
}

function value(row, i) {
  return row.cells[i].dataset.value;
}

function sortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, i) => {
    const numeric = heading.dataset.kind === "number";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const other = { ascending: "descending", descending: "ascending" };
      const order = other[heading.getAttribute("aria-sort")] ?? heading.dataset.first; // first the best on top
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      rows.sort((a, b) => {
        const x = value(a, i), y = value(b, i);
        if (x === "" || y === "") return (x === "") - (y === ""); // rows without a figure stay last
        return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
      });
      body.append(...rows);
    });
  });
}

function setUpTables() {
  document.querySelectorAll("[data-sortable]").forEach(sortable);
  const table = document.getElementById("results");
  if (!table) return;
  const rows = [...table.tBodies[0].rows];
  const filters = [...document.querySelectorAll("[data-filter]")];
  const status = document.getElementById("shown");
  filters.filter((f) => f.tagName === "SELECT").forEach((select) => {
    const i = Number(select.dataset.filter);
    const texts = new Set(rows.map((row) => row.cells[i].textContent).filter(Boolean));
    [...texts].sort((a, b) => a.localeCompare(b, "en", { numeric: true })).forEach((text) => option(select, text));
  });
  const apply = () => {
    let shown = 0;
    for (const row of rows) {
      row.hidden = !filters.every((filter) => {
        if (!filter.value) return true;
        if (filter.dataset.filter === "text") {
          return filter.value.toLowerCase().split(/\s+/).every((word) => row.textContent.toLowerCase().includes(word));
        }
        return row.cells[Number(filter.dataset.filter)].textContent === filter.value;
      });
      shown += !row.hidden;
    }
    status.textContent = `${shown} of ${rows.length} rows`;
  };
  filters.forEach((filter) => listen(filter, apply));
  document.getElementById("reset").addEventListener("click", () => {
    filters.forEach((filter) => { filter.value = ""; });
    apply();
  });
  apply();
}

function setUpClaims() {
  const claims = [...document.querySelectorAll(".claim")];
  const text = document.getElementById("claim-text");
  const selects = { verdict: document.getElementById("claim-verdict"), group: document.getElementById("claim-group") };
  const status = document.getElementById("claims-shown");
  for (const [name, select] of Object.entries(selects)) {
    new Set(claims.map((claim) => claim.dataset[name])).forEach((value) => option(select, value));
  }
  const apply = () => {
    let shown = 0;
    for (const claim of claims) {
      const said = claim.textContent.toLowerCase();
      const found = text.value.toLowerCase().split(/\s+/).every((word) => said.includes(word));
      const chosen = Object.entries(selects).every(([name, s]) => !s.value || claim.dataset[name] === s.value);
      claim.hidden = !(found && chosen);
      shown += !claim.hidden;
    }
    status.textContent = `${shown} of ${claims.length} statements`;
  };
  [text, ...Object.values(selects)].forEach((control) => listen(control, apply));
  apply();
}

async function setUpCharts() {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const views = [];
  for (const place of document.querySelectorAll("[data-chart]")) {
    const drawn = document.createElement("div");
    const { view } = await vegaEmbed(drawn, specs[place.dataset.chart], { mode: "vega-lite", renderer: "svg", actions: false });
    const label = place.querySelector("svg")?.getAttribute("aria-label");
    const svg = drawn.querySelector("svg");
    if (svg && label) svg.setAttribute("aria-label", label);
    place.replaceChildren(drawn);
    if ("top1" in place.dataset) views.push(view);
  }
  for (const radio of document.querySelectorAll("[name=top1]")) {
    radio.addEventListener("change", () => views.forEach((view) => view.signal("kind", radio.value).runAsync()));
  }
  document.documentElement.dataset.charts = "ready";
}

setUpTables();
setUpClaims();
setUpCharts();
