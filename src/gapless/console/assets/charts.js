// The charts of a rollout: both releases, the line that must not be crossed, and what happened when.
const FONT = '12px "Inter", system-ui, sans-serif';
const HEADROOM = 1.35; // for the words above a line
const charts = new Map();

export function begin() {
  redraw();
  addEventListener("resize", () => {
    for (const [element, chart] of charts) chart.setSize(size(element));
  });
}

export function redraw() {
  for (const element of charts.keys()) if (!element.isConnected) drop(element);
  for (const element of document.querySelectorAll("[data-chart]")) draw(element);
}

export function recolour() {
  for (const element of [...charts.keys()]) {
    drop(element);
    draw(element);
  }
}

function drop(element) {
  charts.get(element).destroy();
  charts.delete(element);
  delete element.dataset.drawn;
}

function draw(element) {
  if (element.dataset.drawn === element.dataset.figures || typeof uPlot === "undefined") return;
  const figures = JSON.parse(element.dataset.figures);
  const part = figures[element.dataset.chart];
  const data = [figures.at, ...part.series];
  element.dataset.drawn = element.dataset.figures;
  const chart = charts.get(element);
  if (chart) {
    chart.figures = figures;
    chart.setData(data);
  } else charts.set(element, make(element, figures, data));
}

function make(element, figures, data) {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const part = figures[element.dataset.chart];
  const unit = element.dataset.unit;
  const axis = { stroke: colour("faint"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: FONT };
  const side = (label, name) => ({ label, stroke: colour(name), width: 2, points: { show: false }, spanGaps: true, fill: colour(name) + "14" });
  const top = (u, low, high) => [0, Math.max(high || 0, u.figures[element.dataset.chart].limit || 0, 1) * HEADROOM];
  const chart = new uPlot(
    {
      ...size(element),
      cursor: { y: false, points: { size: 7 } },
      legend: { show: false },
      padding: [10, 26, 0, 4],
      scales: { x: { time: true }, y: { range: (u, low, high) => top({ figures: u.figures || figures }, low, high) } },
      axes: [
        { ...axis, grid: { show: false }, space: 90, size: 24, values: (u, marks) => marks.map(clock) },
        { ...axis, size: 52, values: (u, marks) => marks.map((mark) => `${mark} ${unit}`), space: 42 },
      ],
      series: [{}, side(figures.names[0], "stable"), side(figures.names[1], "new")],
      hooks: {
        draw: [(u) => lines(u, u.figures || figures, element.dataset.chart, unit, colour)],
        setCursor: [(u) => tip(u, unit)],
      },
    },
    data,
    element,
  );
  chart.figures = figures;
  return chart;
}

function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

function size(element) {
  return { width: element.clientWidth, height: element.clientHeight };
}

function lines(u, figures, key, unit, colour) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.font = FONT.replace("12px", `${11 * ratio}px`);
  ctx.textAlign = "left";
  bounds(u, figures[key], unit, colour);
  ctx.lineWidth = ratio;
  ctx.strokeStyle = colour("line-strong");
  ctx.fillStyle = colour("faint");
  ctx.setLineDash([2 * ratio, 3 * ratio]);
  let free = 0;
  for (const [at, label] of figures.marks) {
    const x = u.valToPos(at, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    stroke(ctx, x, bbox.top, x, bbox.top + bbox.height);
    const wide = ctx.measureText(label).width + 8 * ratio;
    if (x < free || x + wide > bbox.left + bbox.width) continue;
    ctx.fillText(label, x + 4 * ratio, bbox.top + 11 * ratio);
    free = x + wide;
  }
  ctx.restore();
}

// Where a release goes back, and where it is promoted: the same place most of the time, so that each line has a side of it
// and its words there.
function bounds(u, { limit, pass }, unit, colour) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  let x = bbox.left + 6 * ratio;
  ctx.lineWidth = 1.5 * ratio;
  ctx.setLineDash([6 * ratio, 4 * ratio]);
  for (const [value, name, text, side] of [[limit, "bad", "goes back surely above", -1], [pass, "good", "promoted below", 1]]) {
    if (!value) continue;
    const y = u.valToPos(value, "y", true) + side * 1.5 * ratio;
    ctx.strokeStyle = colour(`${name}-fill`);
    stroke(ctx, bbox.left, y, bbox.left + bbox.width, y);
    const fits = side < 0 || y + 18 * ratio < bbox.top + bbox.height;
    const said = `${text} ${value} ${unit}`;
    write(ctx, said, x, fits ? y + side * 5 * ratio : y - 8 * ratio, fits && side > 0 ? "top" : "bottom", colour(name), colour("surface"));
    if (side < 0 && u.valToPos(pass, "y", true) + 20 * ratio >= bbox.top + bbox.height) x += ctx.measureText(said).width + 12 * ratio;
  }
  ctx.textBaseline = "alphabetic";
}

// With a halo, so that it can be read over a series.
function write(ctx, text, x, y, baseline, colour, halo) {
  ctx.save();
  ctx.setLineDash([]);
  ctx.textBaseline = baseline;
  ctx.lineJoin = "round";
  ctx.lineWidth = 4 * devicePixelRatio;
  ctx.strokeStyle = halo;
  ctx.strokeText(text, x, y);
  ctx.fillStyle = colour;
  ctx.fillText(text, x, y);
  ctx.restore();
}

function stroke(ctx, x1, y1, x2, y2) {
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  ctx.lineTo(x2, y2);
  ctx.stroke();
}

function tip(u, unit) {
  const place = u.cursor.idx;
  let box = u.over.querySelector(".tip");
  if (place == null || u.cursor.left < 0) return box && box.remove();
  if (!box) u.over.append((box = Object.assign(document.createElement("div"), { className: "tip" })));
  const values = u.series.slice(1).map((s, n) => `${s.label}: ${u.data[n + 1][place] ?? "–"} ${unit}`);
  box.textContent = [clock(u.data[0][place]), ...values].join("  ·  ");
  const left = Math.min(Math.max(u.cursor.left - box.offsetWidth / 2, 0), u.over.clientWidth - box.offsetWidth);
  box.style.transform = `translate(${left}px, ${u.over.clientHeight - 34}px)`;
}
