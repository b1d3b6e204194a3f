"use strict";
const missing = (text) => text === "" || text === "—";
const read = (cell) => cell.dataset.sort ?? cell.textContent.trim();
const compare = (x, y, numeric) => numeric ? (x === y ? 0 : Number(x) - Number(y)) : x.localeCompare(y, "en", {numeric: true});
function sort(head) {
  const body = head.closest("table").tBodies[0], i = head.cellIndex, numeric = head.classList.contains("num");
  const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of head.parentElement.cells) other.setAttribute("aria-sort", other === head ? way : "none");
  body.append(...[...body.rows].sort((a, b) => {
    const x = read(a.cells[i]), y = read(b.cells[i]);
    if (missing(x) || missing(y)) return missing(x) - missing(y);
    return compare(x, y, numeric) * (way === "ascending" ? 1 : -1);
  }));
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (button) sort(button.closest("th"));
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
