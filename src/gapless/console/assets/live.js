// The page's stream: patches what has changed, and says since when nothing came.
import { morph } from "./morph.js";
import { told, refresh } from "./times.js";
import { redraw } from "./charts.js";

const LONGEST_PAUSE_MS = 8000;
let source = null;
let heardAt = Date.now();
let pause = 500;
let timer = 0;

export function begin() {
  const address = meta("gapless-stream");
  if (!address) return show("off", "");
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open(address)));
  window.addEventListener("pagehide", close);
  if (!document.hidden) open(address);
}

export function meta(name) {
  return document.querySelector(`meta[name="${name}"]`).content;
}

function open(address) {
  close();
  source = new EventSource(address);
  source.addEventListener("hello", (event) => hello(JSON.parse(event.data)));
  source.addEventListener("patch", (event) => patch(JSON.parse(event.data)));
  source.onerror = () => {
    stale();
    if (source && source.readyState === EventSource.CLOSED) later(address);
  };
}

function close() {
  clearTimeout(timer);
  if (source) source.close();
  source = null;
}

// A browser connects again by itself after a cut, but not after a refusal, such as that of a control plane that starts.
function later(address) {
  clearTimeout(timer);
  timer = setTimeout(() => open(address), pause);
  pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
}

function hello(said) {
  if (!meta("gapless-version").includes(said.version)) return location.reload();
  document.querySelector('meta[name="gapless-act"]').content = said.act_token;
  pause = 500;
}

function patch(said) {
  told(said.at);
  for (const [name, html] of Object.entries(said.regions)) {
    const region = document.getElementById(`r-${name}`);
    if (region) morph(region, html);
  }
  heardAt = Date.now();
  show("live", "live");
  refresh();
  redraw();
  follow();
}

function stale() {
  const at = new Date(heardAt);
  show("stale", `stale since ${at.toLocaleTimeString()}`);
}

function show(state, text) {
  const live = document.getElementById("live");
  if (live.dataset.state !== state || state === "stale") live.textContent = text;
  live.dataset.state = state;
}

// A log stays at its end, unless somebody has scrolled up to read.
function follow() {
  for (const log of document.querySelectorAll("[data-follow]")) {
    const last = log.lastElementChild;
    if (!last || log.dataset.last === last.textContent) continue;
    if (log.dataset.last === undefined || log.scrollTop + log.clientHeight > log.scrollHeight - 120) log.scrollTop = log.scrollHeight;
    log.dataset.last = last.textContent;
  }
}
