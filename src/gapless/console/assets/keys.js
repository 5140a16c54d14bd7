// Everything by keyboard: g and a letter leads to a page, j and k walk through rows, ? tells.
import { toggle } from "./theme.js";

const LEADING_MS = 1500;
let leading = 0;

export function begin() {
  document.addEventListener("keydown", pressed);
  const help = document.getElementById("help");
  document.getElementById("help-open").addEventListener("click", () => help.showModal());
  document.getElementById("help-close").addEventListener("click", () => help.close());
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, dialog[open]")) return;
  if (Date.now() - leading < LEADING_MS) {
    leading = 0;
    const link = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (link) {
      event.preventDefault();
      return link.click();
    }
  }
  const acts = { g: lead, "?": () => document.getElementById("help").showModal(), d: toggle, j: () => walk(1), k: () => walk(-1) };
  const act = acts[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function lead() {
  leading = Date.now();
}

function walk(way) {
  const links = [...document.querySelectorAll("[data-row] a, .line-of-time .what a")];
  const place = links.indexOf(document.activeElement);
  const next = links[place < 0 ? (way > 0 ? 0 : links.length - 1) : place + way];
  if (next) next.focus();
}
