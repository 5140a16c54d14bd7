// Light or dark: as the system is, until somebody chooses. A cookie tells the server, so that a page never flashes.
import { recolour } from "./charts.js";

const YEAR_S = 31536000;

export function begin() {
  document.getElementById("theme").addEventListener("click", toggle);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
}

export function toggle() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `theme=${root.dataset.theme}; path=/; max-age=${YEAR_S}; samesite=strict`;
  recolour();
}
