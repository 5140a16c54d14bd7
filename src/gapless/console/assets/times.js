// Moments as "3 min ago", with the whole date on the pointer. The server's clock counts: ours may be wrong.
let ahead = 0;

export function begin() {
  told(Number(document.querySelector('meta[name="gapless-at"]').content));
  refresh();
  setInterval(refresh, 1000);
}

export function told(at) {
  ahead = at - Date.now() / 1000;
}

export function refresh() {
  const now = Date.now() / 1000 + ahead;
  for (const element of document.querySelectorAll("time[data-at]")) {
    const at = Number(element.dataset.at);
    const text = ago(now - at, at);
    if (element.textContent !== text) element.textContent = text;
    const whole = new Date(at * 1000).toLocaleString();
    if (element.title !== whole) element.title = whole;
  }
}

function ago(seconds, at) {
  const s = Math.max(Math.round(seconds), 0);
  if (s < 5) return "just now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return new Date(at * 1000).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}
