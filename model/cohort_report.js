"use strict";
// The table of cases: searched, filtered and sorted here; drawn a page at a time, since a cohort
// may have tens of thousands of rows.
(() => {
  const PAGE = 200;
  // Places in a row, as `_rows` of cohort_report.py fills it.
  const ID = 0, TIME = 1, INTERVAL = 2, RISK = 3, PERCENTILE = 4, SURVIVAL = [5, 6, 7, 8];
  const MODALITIES = 9, ERROR = 10, WARNINGS = 11, CAUSES = 12;
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const texts = rows.map((row) => row.slice(0, CAUSES).flat().join(" ").toLowerCase());
  const body = document.querySelector("#cases tbody");
  const headers = [...document.querySelectorAll("#cases th[data-column]")];
  const search = document.getElementById("search");
  const status = document.getElementById("status");
  const more = document.getElementById("more");
  const filters = [...document.querySelectorAll("button[data-filter]")];
  let filter = "", column = -1, direction = 1, found = [], shown = 0;

  const passes = (row) =>
    filter === "" ||
    (filter === "f" && row[ERROR] !== "") ||
    (filter === "w" && row[CAUSES].some((cause) => cause.startsWith("w"))) ||
    row[CAUSES].includes(filter);

  // An interval is its lower end and its text.
  const key = (row) => (Array.isArray(row[column]) ? row[column][0] : row[column]);

  const compare = (a, b) => {
    const [x, y] = [key(rows[a]), key(rows[b])];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;  // blanks last
    const order = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
    return direction * order || a - b;
  };

  const fixed = (value, digits) =>
    value === null ? null : value.toFixed(digits).replace("-", "−");

  const notes = (row) => [[row[ERROR], "error"], ...row[WARNINGS].map((text) => [text, "warning"])];

  const cell = (line, text, kind) => {
    const made = line.insertCell();
    made.textContent = text === null ? "" : text;
    if (kind) made.className = kind;
    return made;
  };

  const draw = () => {
    for (const index of found.slice(shown, shown + PAGE)) {
      const row = rows[index], line = body.insertRow();
      cell(line, row[ID], row[ID].length > 24 ? "id long" : "id");
      cell(line, fixed(row[TIME], 1), "number");
      cell(line, row[INTERVAL] && row[INTERVAL][1], "number");
      cell(line, fixed(row[RISK], 2), "number");
      cell(line, row[PERCENTILE], "number");
      for (const at of SURVIVAL) cell(line, row[at] === null ? null : fixed(100 * row[at], 0), "number");
      cell(line, row[MODALITIES], "from");
      const messages = cell(line, "", "messages");
      for (const [text, kind] of notes(row))
        if (text) {
          const part = document.createElement("div");
          part.className = kind;
          part.textContent = text;
          messages.append(part);
        }
    }
    shown = Math.min(shown + PAGE, found.length);
    const count = (n) => n.toLocaleString("en");
    status.textContent = found.length
      ? `${count(shown)} of ${count(found.length)} cases shown` +
        (found.length < rows.length ? `, ${count(rows.length)} in all` : "")
      : "No case has this.";
    more.hidden = shown >= found.length;
  };

  const update = () => {
    const wanted = search.value.toLowerCase().trim();
    found = [...rows.keys()].filter((i) => passes(rows[i]) && texts[i].includes(wanted));
    if (column >= 0) found.sort(compare);
    body.replaceChildren();
    shown = 0;
    draw();
    for (const button of filters)
      button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
    for (const header of headers) {
      const order = direction > 0 ? "ascending" : "descending";
      header.setAttribute("aria-sort", Number(header.dataset.column) === column ? order : "none");
    }
  };

  search.addEventListener("input", update);
  more.addEventListener("click", draw);
  for (const button of filters)
    button.addEventListener("click", () => {
      filter = button.dataset.filter;
      update();
      if (button.closest("table")) document.getElementById("table").scrollIntoView();
    });
  for (const header of headers)
    header.querySelector("button").addEventListener("click", () => {
      const chosen = Number(header.dataset.column);
      direction = chosen === column ? -direction : 1;
      column = chosen;
      update();
    });
  update();
})();
