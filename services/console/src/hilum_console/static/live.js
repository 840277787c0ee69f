// Keeps a page current: when the server says that something changed, and after a while anyway, it asks for the page
// again and replaces only what changed. Without a word from the server it asks every two seconds.
// Text from the server arrives escaped and is parsed without running anything.

const PERIOD_MS = 2000;
const CALM_MS = 10000; // while the server's stream is open: waits on the page grow by the clock
const seen = new Map(); // id of a live part -> how the server last described it

function remember(root) {
  for (const part of root.querySelectorAll("[data-live]")) seen.set(part.id, part.outerHTML);
}

function patchParts(fresh) {
  for (const part of fresh.querySelectorAll("[data-live]")) {
    if (seen.get(part.id) === part.outerHTML) continue;
    seen.set(part.id, part.outerHTML);
    const old = document.getElementById(part.id);
    if (!old) continue;
    const open = new Set([...old.querySelectorAll("details[open][id]")].map((d) => d.id));
    const node = document.importNode(part, true);
    for (const d of node.querySelectorAll("details[id]")) d.open = d.open || open.has(d.id);
    old.replaceWith(node);
    document.dispatchEvent(new CustomEvent("hilum:patched", { detail: node }));
  }
}

let lastGood = "";
remember(document); // before any script of the page marks what it shows

function showLink(good) {
  const link = document.getElementById("link");
  link.dataset.state = good ? "live" : "lost";
  document.getElementById("link-text").textContent = good ? "live" : "not live";
  document.getElementById("lost").hidden = good;
  document.getElementById("lost-since").textContent = lastGood;
}

async function look(patch) {
  const answer = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" } });
  if (answer.status >= 500) throw new Error(String(answer.status));
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (document.querySelector("[data-retry]")) return location.reload();
  patch(fresh);
  lastGood = fresh.getElementById("now").textContent;
  document.getElementById("now").textContent = lastGood;
}

export function keepLive(patch = () => {}) {
  lastGood = document.getElementById("now").textContent;
  let timer = 0;
  let looking = false;
  let asked = false; // something changed while it was looking
  let told = null; // the stream; only a visible page has one, since a browser opens few to one server
  const calm = () => told !== null && told.readyState === EventSource.OPEN;
  const again = async () => {
    if (looking) { asked = true; return; }
    clearTimeout(timer);
    looking = true;
    if (document.visibilityState === "visible") {
      try {
        await look((fresh) => { patchParts(fresh); patch(fresh); });
        showLink(true);
      } catch {
        showLink(false);
      }
      listen();
    }
    looking = false;
    const soon = asked;
    asked = false;
    timer = setTimeout(again, soon ? 0 : calm() ? CALM_MS : PERIOD_MS);
  };
  const listen = () => {
    const visible = document.visibilityState === "visible";
    if (told !== null && (!visible || told.readyState === EventSource.CLOSED)) { told.close(); told = null; }
    if (told !== null || !visible) return;
    told = new EventSource("/live");
    told.addEventListener("changed", again);
    told.addEventListener("error", again);
  };
  document.addEventListener("visibilitychange", () => { listen(); if (document.visibilityState === "visible") again(); });
  window.addEventListener("pagehide", () => { if (told !== null) told.close(); told = null; });
  timer = setTimeout(again, PERIOD_MS);
  listen();
}

export function typing(event) {
  return event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
}

if (!document.body.matches(".list, .study")) keepLive();
