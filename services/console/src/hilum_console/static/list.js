// The worklist: rows keep their identity while they move, the selection stays on its study.
import { keepLive, typing } from "./live.js";

const rows = document.getElementById("rows");
const seen = new Map([...rows.children].map((row) => [row.id, row.outerHTML]));
let selected = sessionStorage.getItem("hilum.selected") || "";

function mark(scroll) {
  for (const row of rows.children) {
    const on = row.id === selected;
    row.classList.toggle("selected", on);
    if (on) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
    if (on && scroll) row.scrollIntoView({ block: "nearest" });
  }
}

function select(row, scroll = true) {
  if (!row) return;
  selected = row.id;
  sessionStorage.setItem("hilum.selected", selected);
  mark(scroll);
}

function open(row) {
  if (!row) return;
  select(row, false);
  location.assign(row.dataset.href);
}

function patch(fresh) {
  const wanted = fresh.getElementById("rows");
  if (!wanted) return;
  const kept = new Set();
  let before = null;
  for (const row of [...wanted.children]) {
    const text = row.outerHTML;
    let node = document.getElementById(row.id);
    kept.add(row.id);
    if (!node || seen.get(row.id) !== text) {
      const made = document.importNode(row, true);
      if (node) node.replaceWith(made);
      node = made;
      seen.set(row.id, text);
    }
    const next = before ? before.nextElementSibling : rows.firstElementChild;
    if (node !== next) rows.insertBefore(node, next);
    before = node;
  }
  for (const row of [...rows.children]) if (!kept.has(row.id)) { seen.delete(row.id); row.remove(); }
  mark(false);
}

rows.addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row && !event.target.closest("a") && !String(getSelection())) open(row);
});

document.addEventListener("keydown", (event) => {
  if (typing(event)) return;
  const now = document.getElementById(selected);
  const moves = { j: "nextElementSibling", ArrowDown: "nextElementSibling", k: "previousElementSibling", ArrowUp: "previousElementSibling" };
  if (moves[event.key]) select(now ? now[moves[event.key]] || now : rows.firstElementChild);
  else if (event.key === "Enter" && event.target === document.body) open(now);
  else if (event.key === "g") select(rows.firstElementChild);
  else if (event.key === "G") select(rows.lastElementChild);
  else return;
  event.preventDefault();
});

mark(true);
keepLive(patch);
