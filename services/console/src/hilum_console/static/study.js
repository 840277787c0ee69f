// The study page: picture, boxes in its pixel coordinates, and the link between a finding and its box.
import { keepLive, typing } from "./live.js";

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const stage = byId("stage");
let thumb = null; // the image shown
let frame = 1;
let view = null; // what part of the image is shown: x, y, width, height in the stage's units
let boxesOn = true;
let active = ""; // number of the finding pointed at

const thumbs = () => [...document.querySelectorAll(".thumb")];
const boxes = () => [...document.querySelectorAll("#boxes .box")];
const findings = () => [...document.querySelectorAll(".finding[data-n]")];
const size = () => ({ width: +thumb.dataset.columns, height: +thumb.dataset.rows * +thumb.dataset.aspect });

function setView(next) {
  view = next;
  stage.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  drawLabels();
}

function fit() {
  setView({ x: 0, y: 0, ...size() });
}

function pixelsPerUnit() {
  const matrix = stage.getScreenCTM();
  return matrix ? matrix.a : 1;
}

function drawLabels() {
  const labels = byId("labels");
  labels.replaceChildren();
  const unit = 1 / pixelsPerUnit(); // one CSS pixel in the stage's units
  const aspect = +thumb.dataset.aspect;
  for (const box of boxes()) {
    const here = box.dataset.sop === thumb.dataset.sop && +box.dataset.frame === frame;
    box.classList.toggle("away", !here || !boxesOn);
    box.classList.toggle("active", box.dataset.n === active);
    if (!here || !boxesOn) continue;
    const text = document.createElementNS(SVG, "text");
    text.textContent = `${box.dataset.n}  ${box.dataset.label} ${box.dataset.probability}`;
    text.setAttribute("class", box.classList.contains("active") ? "active" : "");
    text.setAttribute("font-size", 14 * unit);
    text.setAttribute("stroke-width", 4 * unit);
    const top = +box.getAttribute("y") * aspect;
    const above = top - 6 * unit;
    const below = top + +box.getAttribute("height") * aspect + 17 * unit;
    text.setAttribute("y", above - 14 * unit > view.y ? above : below);
    text.setAttribute("x", box.getAttribute("x"));
    labels.append(text);
    const over = text.getBBox().x + text.getBBox().width - (size().width - 4 * unit);
    if (over > 0) text.setAttribute("x", Math.max(4 * unit, +box.getAttribute("x") - over));
  }
  for (const item of findings()) item.classList.toggle("active", item.dataset.n === active);
}

function show(next, number = +next.dataset.frame) {
  const changed = !thumb || thumb.dataset.sop !== next.dataset.sop;
  thumb = next;
  frame = Math.min(Math.max(number, 1), +thumb.dataset.frames);
  for (const item of thumbs()) item.setAttribute("aria-current", String(item === thumb));
  if (changed) next.scrollIntoView({ block: "nearest" });
  const picture = byId("picture");
  picture.setAttribute("width", thumb.dataset.columns);
  picture.setAttribute("height", thumb.dataset.rows);
  byId("pixels").setAttribute("transform", `scale(1 ${thumb.dataset.aspect})`);
  const source = `${thumb.dataset.src}${frame}.png`;
  if (picture.getAttribute("href") !== source) {
    byId("loading").hidden = false;
    byId("unshown").hidden = true;
    picture.classList.remove("gone");
    picture.setAttribute("href", source);
  }
  const many = +thumb.dataset.frames > 1;
  byId("frames").hidden = !many;
  byId("frame").max = thumb.dataset.frames;
  byId("frame").value = frame;
  byId("frame-text").textContent = `frame ${frame} of ${thumb.dataset.frames}`;
  if (changed) fit(); else drawLabels();
}

function step(by) {
  const all = thumbs();
  show(all[Math.min(Math.max(all.indexOf(thumb) + by, 0), all.length - 1)]);
}

function point(number, go) {
  active = number;
  const box = boxes().find((b) => b.dataset.n === number);
  if (box && go) {
    const home = thumbs().find((t) => t.dataset.sop === box.dataset.sop);
    if (home) show(home, +box.dataset.frame);
    findings().find((f) => f.dataset.n === number)?.scrollIntoView({ block: "nearest" });
  }
  drawLabels();
}

function toggle() {
  boxesOn = !boxesOn;
  byId("toggle").setAttribute("aria-pressed", String(boxesOn));
  byId("toggle").textContent = boxesOn ? "■ boxes on" : "□ boxes off";
  drawLabels();
}

async function explain() {
  byId("loading").hidden = true;
  byId("picture").classList.add("gone");
  const note = byId("unshown");
  note.textContent = "This frame can't be shown.";
  note.hidden = false;
  try {
    const answer = await fetch(byId("picture").getAttribute("href"));
    if (!answer.ok) note.textContent = `This frame can't be shown: ${await answer.text()}`;
  } catch { /* the connection banner says so */ }
}

function zoom(event) {
  event.preventDefault();
  if (+thumb.dataset.frames > 1 && !event.ctrlKey) return show(thumb, frame + Math.sign(event.deltaY));
  const whole = size();
  const factor = Math.min(Math.max(Math.exp(event.deltaY * 0.0015), 0.5), 2);
  const width = Math.min(Math.max(view.width * factor, whole.width / 16), whole.width);
  const scale = width / view.width;
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
  setView({ x: at.x - (at.x - view.x) * scale, y: at.y - (at.y - view.y) * scale, width, height: view.height * scale });
  if (width === whole.width) fit();
}

function drag(event) {
  if (event.buttons !== 1) return;
  const unit = 1 / pixelsPerUnit();
  setView({ ...view, x: view.x - event.movementX * unit, y: view.y - event.movementY * unit });
}

const KEYS = {
  b: toggle,
  0: fit,
  n: () => step(1),
  p: () => step(-1),
  ArrowRight: () => show(thumb, frame + 1),
  ArrowLeft: () => show(thumb, frame - 1),
  j: () => along(1),
  k: () => along(-1),
};

function along(by) {
  const all = findings();
  if (!all.length) return;
  const now = all.findIndex((f) => f.dataset.n === active);
  point(all[now < 0 ? 0 : Math.min(Math.max(now + by, 0), all.length - 1)].dataset.n, true);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" || event.key === "u") location.assign("/");
  else if (thumb && KEYS[event.key] && !typing(event)) { event.preventDefault(); KEYS[event.key](); }
});

const numbered = (event) => event.target.closest?.(".finding[data-n], .box");
document.addEventListener("mouseover", (event) => { const it = numbered(event); if (thumb && it) point(it.dataset.n, false); });
document.addEventListener("mouseout", (event) => { if (thumb && numbered(event)) point("", false); });
document.addEventListener("focusin", (event) => { const it = numbered(event); if (thumb && it) point(it.dataset.n, true); });
document.addEventListener("click", (event) => {
  const picked = event.target.closest?.(".thumb");
  const it = numbered(event);
  if (picked) show(picked);
  else if (thumb && it) point(it.dataset.n, true);
});

// A small picture that can't be made says so; load errors don't bubble, so they are caught on the way down.
function spoiled(image) {
  image.classList.add("gone");
  image.closest(".thumb").classList.add("spoiled");
}
document.addEventListener("error", (event) => { if (event.target.matches?.(".thumb img")) spoiled(event.target); }, true);
for (const image of document.querySelectorAll(".thumb img")) if (image.complete && !image.naturalWidth) spoiled(image);

if (stage) {
  stage.addEventListener("wheel", zoom, { passive: false });
  stage.addEventListener("mousemove", drag);
  stage.addEventListener("dblclick", fit);
  byId("picture").addEventListener("load", () => { byId("loading").hidden = true; });
  byId("picture").addEventListener("error", explain);
  byId("toggle").addEventListener("click", toggle);
  byId("fit").addEventListener("click", fit);
  byId("frame").addEventListener("input", (event) => show(thumb, +event.target.value));
  byId("frame-back").addEventListener("click", () => show(thumb, frame - 1));
  byId("frame-on").addEventListener("click", () => show(thumb, frame + 1));
  new ResizeObserver(() => thumb && drawLabels()).observe(stage);
  show(thumbs()[0]);
}

document.addEventListener("hilum:patched", () => {
  if (!thumb) return;
  const same = thumbs().find((t) => t.dataset.sop === thumb.dataset.sop);
  if (same) show(same, frame);
});

keepLive((fresh) => {
  if (!stage && fresh.getElementById("stage")) location.reload(); // the first image arrived
});
