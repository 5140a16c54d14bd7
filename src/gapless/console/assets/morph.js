// Changes an element into what new HTML says, keeping every node that stays: focus, open details, scroll positions and
// running animations survive, and nothing jumps.

export function morph(element, html) {
  const goal = element.cloneNode(false);
  goal.innerHTML = html;
  children(element, goal);
}

function children(old, goal) {
  const named = new Map();
  for (const child of old.children) if (child.id) named.set(child.id, child);
  let place = old.firstChild;
  for (const wanted of [...goal.childNodes]) {
    const match = wanted.id ? named.get(wanted.id) : place && !place.id && alike(place, wanted) ? place : null;
    if (!match || !alike(match, wanted)) {
      old.insertBefore(wanted, place);
      continue;
    }
    if (match === place) place = place.nextSibling;
    else old.insertBefore(match, place);
    node(match, wanted);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName;
}

function node(old, goal) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== goal.data) old.data = goal.data;
    return;
  }
  if (old.isEqualNode(goal)) return;
  attributes(old, goal);
  // A moment is told by the browser's clock, and a chart draws what its attributes say.
  if (old.hasAttribute("data-at") || old.hasAttribute("data-keep")) return;
  children(old, goal);
}

function attributes(old, goal) {
  for (const { name, value } of goal.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    const ours = (name === "open" && old.localName === "details") || name === "title" || name === "class" && old.dataset.keep !== undefined;
    if (!ours && !goal.hasAttribute(name)) old.removeAttribute(name);
  }
}
