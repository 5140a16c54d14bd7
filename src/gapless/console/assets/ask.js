// An act: asked once, with the reason; then its outcome, or why not and what to do.
import { meta } from "./live.js";

const SHOWN_MS = 9000;
const found = (id) => document.getElementById(id);
let asked = null;

export function begin() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) ask(button.dataset);
  });
  found("ask-cancel").addEventListener("click", () => found("ask").close());
  found("ask").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

function ask(what) {
  asked = { ...what };
  found("ask-title").textContent = `${what.title}: ${what.service}`;
  found("ask-question").textContent = what.question;
  found("ask-why").value = "";
  for (const more of ["for", "instances"]) found(`ask-${more}-label`).hidden = what.asks !== more;
  found("ask-instances").value = what.now || "";
  found("ask-instances").required = what.asks === "instances";
  found("ask-outcome").hidden = true;
  const go = found("ask-go");
  go.textContent = what.title;
  go.className = `button ${what.tone === "bad" ? "bad full" : "accent"}`;
  go.disabled = false;
  found("ask").showModal();
  found(what.asks === "instances" ? "ask-instances" : "ask-why").focus();
}

async function act() {
  found("ask-go").disabled = true;
  const outcome = await send(asked);
  found("ask-go").disabled = false;
  if (!outcome.error) {
    found("ask").close();
    return toast("good", outcome.done, "");
  }
  const box = found("ask-outcome");
  box.replaceChildren(Object.assign(document.createElement("b"), { textContent: outcome.error }), ...said(outcome.remedy || ""));
  box.className = "outcome bad";
  box.hidden = false;
}

async function send(what) {
  const body = { service: what.service, number: what.number || "", why: found("ask-why").value };
  if (what.asks) body[what.asks] = found(`ask-${what.asks}`).value;
  const headers = { "content-type": "application/json", "x-gapless-act": meta("gapless-act") };
  try {
    const answer = await fetch(`/acts/${what.act}`, { method: "POST", headers, body: JSON.stringify(body) });
    return await answer.json();
  } catch {
    return { error: "The control plane does not answer.", remedy: "Nothing was changed, as far as is known. Look whether `gapless up` still runs; gateway and instances go on without it." };
  }
}

// A sentence whose backticks are code.
function said(text) {
  return text.split(/`([^`]+)`/).map((part, place) => (place % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part));
}

export function toast(tone, text, more) {
  const box = Object.assign(document.createElement("div"), { className: `toast ${tone}` });
  box.append(Object.assign(document.createElement("b"), { textContent: text }), more);
  found("toasts").append(box);
  setTimeout(() => box.remove(), SHOWN_MS);
}
