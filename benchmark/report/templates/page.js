"use strict";
const $ = (query, within = document) => [...within.querySelectorAll(query)];
const root = document.documentElement;

// -- light and dark: the system's choice until the button is pressed; remembered where the browser allows it
const themeButton = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
function tellTheme() {
  themeButton.textContent = isDark() ? "Light" : "Dark"; // what it leads to
  themeButton.setAttribute("aria-pressed", String(isDark()));
}
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

// -- filters: an axis hides what has another value of it; the text hides rows and pictures
const form = document.getElementById("filters"), count = document.getElementById("count");
const fields = $("select, input", form), { text, beside } = form.elements;
const units = $("main .unit"), leaves = $("main .leaf"), columns = $(".matrix [data-attacker]");
const texts = new Map(leaves.map((leaf) => [leaf, wordsOf(leaf)]));
function wordsOf(leaf) {
  const pictures = $("img", leaf).map((image) => image.alt), holder = leaf.closest(".holder");
  const words = [...pictures, leaf.textContent, ...Object.values(leaf.dataset), ...Object.values(holder?.dataset ?? {})];
  return words.join(" ").toLowerCase();
}
function applyFilters() {
  const chosen = fields.filter((field) => field !== text && field !== beside && field.value);
  const wanted = text.value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);
  const fits = (unit) => chosen.every(({ name, value }) => (unit.dataset[name] ?? value) === value);
  units.forEach((unit) => unit.toggleAttribute("hidden", !fits(unit)));
  if (wanted.length) {
    leaves.filter((leaf) => !wanted.some((word) => texts.get(leaf).includes(word)))
      .forEach((leaf) => leaf.toggleAttribute("hidden", true));
  }
  columns.forEach((cell) => cell.toggleAttribute("hidden", !fits(cell)));
  $(".matrix .groups").forEach(fitGroups);
  $(".holder").forEach((holder) => {
    if (!holder.querySelector(".leaf:not([hidden])")) holder.toggleAttribute("hidden", true);
  });
  const rows = $(".matrix .leaf"), shown = rows.filter((row) => !row.closest("[hidden]"));
  count.textContent = chosen.length || wanted.length ? `${shown.length} of ${rows.length} table rows match` : "";
  root.dataset.beside = beside?.value ?? "";
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
// the address holds them, so that a link leads to what one sees: report.html#defense=patrol&cem=on
function toAddress() {
  const set = fields.filter((field) => field.value).map((field) => [field.name, field.value]);
  if (set.length) history.replaceState(null, "", `#${new URLSearchParams(set)}`);
  else if (location.hash.includes("=")) history.replaceState(null, "", location.href.split("#")[0]);
}
function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (location.hash.includes("=")) {
    for (const field of fields) {
      field.value = wanted.get(field.name) ?? "";
      if (field.selectedIndex === -1) field.selectedIndex = 0; // the page has no such value
    }
  }
  update();
}
function update() {
  applyFilters();
  toAddress();
}
form.addEventListener("input", update); // while one types
form.addEventListener("change", update);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(update)); // once the fields are empty
addEventListener("hashchange", fromAddress);
fromAddress(); // a browser may restore the fields of an earlier visit, too
if (matchMedia("(max-width: 40rem)").matches) form.querySelector("details").open = false;

// -- a box that has more to the right fades out there
const cue = (box) => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => cue(target.closest(".scroll, .gallery"))));
for (const box of $(".scroll, .gallery")) {
  box.addEventListener("scroll", () => cue(box), { passive: true });
  resized.observe(box);
  resized.observe(box.firstElementChild);
}

// -- on paper everything is open
addEventListener("beforeprint", () => $("details").forEach((item) => { item.dataset.was = item.open; item.open = true; }));
addEventListener("afterprint", () => $("details").forEach((item) => { item.open = item.dataset.was === "true"; }));
