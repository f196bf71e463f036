"use strict";
// Tables can be sorted by a click on a heading, and drawings say the value that one points at. Without this script the
// page holds the same tables and drawings, and browsers show the values by themselves, later.

function sortBy(table, place, descending) {
  const key = (row) => {
    const cell = row.cells[place];
    const number = cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
    return Number.isNaN(number) ? cell.textContent.trim() : number;
  };
  const rows = Array.from(table.tBodies[0].rows);
  rows.sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    // Words such as n/a stay below the numbers, whichever way these are sorted.
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
    return descending ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table")) {
  const headings = Array.from(table.tHead.rows[0].cells);
  if (table.tBodies[0].rows.length < 2) continue;
  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const current = heading.getAttribute("aria-sort");
      // Numbers are asked for from the top: which is best?
      const first = heading.classList.contains("number") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      const order = current === first ? second : first;
      heading.setAttribute("aria-sort", order);
      sortBy(table, place, order === "descending");
    });
  });
}

const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status");
document.body.append(tip);

function show(spot) {
  const box = spot.getBoundingClientRect();
  tip.textContent = spot.dataset.words;
  tip.classList.add("shown");
  const left = Math.min(box.left + box.width / 2, window.innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
  tip.style.top = `${box.top - tip.offsetHeight - 4 + window.scrollY}px`;
}

function hide() {
  tip.classList.remove("shown");
}

for (const drawing of document.querySelectorAll(".drawing")) {
  const spots = Array.from(drawing.querySelectorAll(".spot"));
  for (const spot of spots) {
    const title = spot.querySelector("title");
    spot.dataset.words = title.textContent;
    // Otherwise the browser's own comes up over ours.
    title.remove();
    spot.addEventListener("pointerenter", () => show(spot));
    spot.addEventListener("pointerleave", hide);
  }
  if (!spots.length) continue;
  let current = -1;
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    current = (current + step + spots.length) % spots.length;
    show(spots[current]);
  });
  drawing.addEventListener("blur", hide);
}
