"use strict";
const $ = (query, within = document) => [...within.querySelectorAll(query)];
const root = document.documentElement;

// -- light and dark: the system's choice until the button is pressed; remembered where the browser allows it
const themeButton = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const tellTheme = () => themeButton.setAttribute("aria-pressed", String(isDark()));
try { root.dataset.theme = localStorage.getItem("theme") ?? ""; } catch { /* a file's page may have no storage */ }
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* as above */ }
  tellTheme();
});
system.addEventListener("change", tellTheme);
tellTheme();

// -- sorting: a heading's button goes through ascending, descending and the order as printed
function sortBy(button) {
  const heading = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
  const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
  const direction = next === undefined ? "ascending" : next;
  $("[aria-sort]", table).forEach((th) => th.removeAttribute("aria-sort"));
  if (direction) heading.setAttribute("aria-sort", direction);
  const rows = [...body.rows], column = heading.cellIndex, sign = direction === "descending" ? -1 : 1;
  rows.forEach((row, index) => { row.dataset.order ??= index; });
  const keys = new Map(rows.map((row) => [row, keyOf(row.cells[column])]));
  rows.sort((a, b) => (direction ? compare(keys.get(a), keys.get(b), sign) : 0) || a.dataset.order - b.dataset.order);
  body.append(...rows);
}
function keyOf(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim(), number = Number(text.replace(/ %$/, ""));
  if (text === "" || text === "–") return null;
  return Number.isNaN(number) ? text.toLowerCase() : number;
}
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // what has no value is last either way
  if (typeof a !== typeof b) return typeof a === "number" ? -sign : sign;
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
}
$(".sort").forEach((button) => button.addEventListener("click", () => sortBy(button)));

// -- filters: an axis hides what has another value of it; the text hides rows, points and pictures
const form = document.getElementById("filters"), count = document.getElementById("count");
const units = $("main .unit"), leaves = $("main .leaf"), columns = $(".matrix [data-attacker]");
const texts = new Map(leaves.map((leaf) => [leaf, wordsOf(leaf)]));
function wordsOf(leaf) {
  const pictures = $("img", leaf).map((image) => image.alt);
  const words = [leaf.getAttribute("aria-label"), ...pictures, leaf.textContent, ...Object.values(leaf.dataset)];
  const article = leaf.closest("article, .facet");
  return [...words, ...(article ? Object.values(article.dataset) : [])].join(" ").toLowerCase();
}
function applyFilters() {
  const chosen = $("select[name]", form).map((select) => [select.name, select.value]).filter((pair) => pair[1]);
  const wanted = form.elements.text.value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);
  const fits = (unit) => chosen.every(([axis, value]) => (unit.dataset[axis] ?? value) === value);
  units.forEach((unit) => unit.toggleAttribute("hidden", !fits(unit)));
  if (wanted.length) {
    leaves.filter((leaf) => !wanted.some((word) => texts.get(leaf).includes(word)))
      .forEach((leaf) => leaf.toggleAttribute("hidden", true));
  }
  columns.forEach((cell) => cell.toggleAttribute("hidden", !fits(cell)));
  $(".matrix .groups").forEach(fitGroups);
  $(".holder, .facet").forEach((holder) => {
    if (!holder.hasAttribute("hidden") && !holder.querySelector(".leaf:not([hidden])")) holder.toggleAttribute("hidden", true);
  });
  $(".facet svg").forEach((chart) => { // one tab stop each, which is not hidden
    const marks = $(".mark:not([hidden])", chart);
    if (!marks.some((mark) => mark.getAttribute("tabindex") === "0")) marks[0]?.setAttribute("tabindex", "0");
  });
  const rows = $(".matrix .leaf"), shown = rows.filter((row) => !row.closest("[hidden]"));
  count.textContent = chosen.length || wanted.length ? `${shown.length} of ${rows.length} table rows match` : "";
}
function fitGroups(line) {
  const own = [...line.nextElementSibling.cells].slice(1);
  for (const group of [...line.cells].slice(1)) {
    group.dataset.span ??= group.colSpan;
    const visible = own.splice(0, Number(group.dataset.span)).filter((cell) => !cell.hasAttribute("hidden")).length;
    group.toggleAttribute("hidden", !visible);
    group.colSpan = visible || 1;
  }
}
const beside = document.getElementById("beside");
function update() {
  applyFilters();
  if (beside) root.dataset.beside = beside.value;
}
form.addEventListener("input", update); // while one types
form.addEventListener("change", update);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(update)); // once the fields are empty
update(); // a browser may restore the fields of an earlier visit
if (matchMedia("(max-width: 40rem)").matches) form.querySelector("details").open = false;

// -- points of a chart: what they are, on hover and focus; the arrow keys go from one to the next
const tip = document.getElementById("tip");
function showTip(mark) {
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  const place = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, place.left + place.width / 2 - own.width / 2), innerWidth - own.width - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${place.top > own.height + 8 ? place.top - own.height - 4 : place.bottom + 4}px`;
}
const hideTip = () => { tip.hidden = true; };
for (const mark of $(".mark")) {
  mark.addEventListener("mouseenter", () => showTip(mark));
  mark.addEventListener("mouseleave", hideTip);
  mark.addEventListener("focus", () => showTip(mark));
  mark.addEventListener("blur", hideTip);
  mark.addEventListener("keydown", (event) => moveFocus(event, mark));
}
function moveFocus(event, mark) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") hideTip();
  if (!step) return;
  event.preventDefault();
  const marks = $(".mark:not([hidden])", mark.closest("svg"));
  const next = marks[(marks.indexOf(mark) + step + marks.length) % marks.length];
  mark.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}
addEventListener("scroll", () => { // a focused point may have been scrolled into view just now
  const mark = document.activeElement?.closest(".mark");
  if (mark && !tip.hidden) showTip(mark); else hideTip();
}, { passive: true });

// -- on paper everything is open
addEventListener("beforeprint", () => $("details").forEach((item) => { item.dataset.was = item.open; item.open = true; }));
addEventListener("afterprint", () => $("details").forEach((item) => { item.open = item.dataset.was === "true"; }));
