"use strict";
// Keys, shading of tokens, and charts that follow a run while it trains.

const COLOURS = ["#3d82cc", "#d9763a", "#3f9e68", "#9a70c2"];
const SHADE_NATS = 3; // log-prob at which a token is shaded fully
const FOLLOW_MS = 3000;
const find = selector => document.querySelector(selector);
const all = selector => [...document.querySelectorAll(selector)];

// ---- tokens

// A number from -1 (against) to 1 (for); surprise counts as against.
const STRENGTH = {
  logp: value => -Math.min(1, -value / SHADE_NATS),
  p: value => value - 1,
  entropy: (value, largest) => -value / largest,
  advantage: (value, largest) => value / largest,
  coefficient: (value, largest) => value / largest,
};
const LEGEND = {
  logp: "surprising to certain", p: "surprising to certain", entropy: "undecided to decided",
  advantage: "worse to better than expected", coefficient: "made rarer to made likelier",
};

function shade(by) {
  const tokens = all(".token").filter(token => by in token.dataset);
  const largest = Math.max(1e-12, ...tokens.map(token => Math.abs(Number(token.dataset[by]))));
  for (const token of all(".token")) {
    const strength = by in token.dataset ? STRENGTH[by](Number(token.dataset[by]), largest) : 0;
    const hue = strength < 0 ? "--shade" : "--shade-for";
    token.style.background = `rgba(var(${hue}), ${(0.6 * Math.abs(strength)).toFixed(3)})`;
  }
  for (const button of all("[data-shade]")) button.setAttribute("aria-pressed", String(button.dataset.shade === by));
  const scale = find("#scale");
  if (scale) {
    scale.className = by === "advantage" || by === "coefficient" ? "scale both" : "scale";
    scale.title = LEGEND[by];
    scale.textContent = LEGEND[by];
  }
}

for (const button of all("[data-shade]")) button.addEventListener("click", () => shade(button.dataset.shade));
shade("logp");

// ---- keys

function move(selector, by) {
  const items = all(selector);
  if (!items.length) return;
  const at = items.findIndex(item => item.classList.contains("chosen"));
  const to = at < 0 ? (by > 0 ? 0 : items.length - 1) : Math.max(0, Math.min(items.length - 1, at + by));
  items.forEach((item, index) => item.classList.toggle("chosen", index === to));
  items[to].scrollIntoView({ block: "nearest" });
}

function step(id, by) {
  if (find("#episodes")) move("tr.row", by);
  else find(id)?.click();
}

function filter() {
  const field = find("#filter");
  if (field) field.focus();
  else if (find("#back")) location.href = `${find("#back").href}#filter`;
}

const KEYS = {
  j: () => step("#next", 1),
  k: () => step("#previous", -1),
  n: () => move(".turn", 1),
  p: () => move(".turn", -1),
  Enter: () => find("tr.row.chosen a")?.click(),
  "/": filter,
  "?": () => find("#help").showModal(),
};

document.addEventListener("keydown", event => {
  if (event.key === "Escape") document.activeElement?.blur();
  const writing = event.target.closest?.("input, select, textarea, button, a, summary, dialog");
  if (writing && (event.key === "Enter" || event.target.matches("input:not([type=checkbox]), select"))) return;
  if (event.ctrlKey || event.metaKey || event.altKey || find("#help").open || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
if (location.hash === "#filter") find("#filter")?.focus();

// ---- charts

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = find("#charts");
const state = { shown: [], stamp: "" };

// Plotly reads tags such as <b> and <a> in names as its own markup: a folder's name must stay what it is.
const plain = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function draw(chart, box) {
  const lines = chart.lines.map((line, index) => ({
    x: line.x, y: line.y, name: plain(line.name), mode: line.x.length > 1 && !line.up ? "lines" : "lines+markers",
    line: { color: COLOURS[(line.colour ?? index) % COLOURS.length], width: line.wide ? 3 : line.thin ? 1 : 2 },
    opacity: line.thin ? 0.6 : 1,
    ...(line.up && { error_y: { type: "data", symmetric: false, array: line.up, arrayminus: line.down } }),
  }));
  const grid = { gridcolor: colour("--line"), zerolinecolor: colour("--line") };
  const value = chart.unit.startsWith("share") ? { range: [-0.02, 1.04], tickformat: ".0%" }
    : chart.title.includes("gap") ? { type: "log", exponentformat: "e" } : {};
  const layout = {
    title: { text: plain(chart.title), font: { size: 14 }, x: 0.03, xanchor: "left", y: 0.97, yanchor: "top" },
    font: { family: "system-ui, sans-serif", color: colour("--ink"), size: 12 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 62, r: 14, t: 58, b: 50 },
    showlegend: chart.lines.length > 1 || "colour" in chart.lines[0], uirevision: "kept", hovermode: "x",
    legend: { orientation: "h", x: 0, y: 1.0, yanchor: "bottom" },
    xaxis: { ...grid, title: { text: chart.title === "SFT loss" ? "SFT update, counted back from 0" : "step", standoff: 6 }, tickformat: "d", ...(chart.lines.every(line => line.x.length < 2) && { dtick: 1 }) },
    yaxis: { ...grid, title: { text: chart.unit }, ...value },
  };
  return Plotly.react(box, lines, layout, { displayModeBar: false, responsive: true });
}

function show(list) {
  state.shown = list;
  const boxes = new Map(all(".chart").map(box => [box.dataset.title, box]));
  for (const chart of list) {
    const box = boxes.get(chart.title) ?? document.createElement("div");
    if (!boxes.delete(chart.title)) {
      box.className = "chart";
      box.dataset.title = chart.title;
    }
    charts.append(box);
    draw(chart, box);
  }
  for (const box of boxes.values()) {
    Plotly.purge(box);
    box.remove();
  }
}

function tell(data) {
  if (!("stamp" in data)) return;
  state.stamp = data.stamp;
  charts.dataset.live = data.live ? "1" : "0";
  find("#live").hidden = !data.live;
  find("#step").textContent = data.step ?? "none";
  find("#held-out").textContent = data.held_out || "none";
  find("#nothing").hidden = data.charts.length > 0;
  find("#alarms").replaceChildren(...data.alarms.map(text => {
    const box = document.createElement("div");
    box.className = "alarm";
    box.textContent = text;
    return box;
  }));
}

async function load(following) {
  const chosen = all("[name=metric]:checked").map(box => `&metric=${encodeURIComponent(box.value)}`).join("");
  const stamp = following && state.stamp ? `&stamp=${encodeURIComponent(state.stamp)}` : "";
  try {
    const answer = await fetch(charts.dataset.source + chosen + stamp);
    if (answer.status !== 200) return;
    const data = await answer.json();
    tell(data);
    show(data.charts);
  } catch { /* the viewer was ended; the page stays as it is */ }
}

if (charts) {
  load(false);
  for (const box of all("[name=metric]")) box.addEventListener("change", () => load(false));
  setInterval(() => { if (charts.dataset.live === "1" && !document.hidden) load(true); }, FOLLOW_MS);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(state.shown));
}
