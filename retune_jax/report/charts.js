"use strict";
// Drawing: SVG elements made by hand, coloured by the page's variables, so that light and dark need no second drawing.

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes; text, where there is any, as text. */
function svg(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** An HTML element with a class and text. */
function html(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The page's colour of the n-th run. */
const colour = (n) => `var(--s${n % 6})`;

/** Round numbers between low and high, about `count` of them. */
function ticks(low, high, count) {
  const step = 10 ** Math.floor(Math.log10((high - low || 1) / count));
  const size = [1, 2, 5, 10].map((m) => m * step).find((s) => (high - low) / s <= count) || step * 10;
  const found = [];
  for (let at = Math.ceil(low / size) * size; at <= high + size * 1e-9; at += size) found.push(at);
  return found;
}

/** A number with few digits. */
function brief(x) {
  if (x === 0 || (Math.abs(x) >= 0.01 && Math.abs(x) < 10000)) return String(+x.toPrecision(3));
  return x.toExponential(1).replace("e+", "e");
}

/** Axes of a chart: returns the svg and the two scales. `logged` draws y by its logarithm. */
function axes({ width, height, x, y, label, logged, wholeX }) {
  const box = { left: 46, right: width - 10, top: 12, bottom: height - 34 };
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const lift = logged ? (v) => Math.log10(v) : (v) => v;
  const [y0, y1] = [lift(y[0]), lift(y[1])];
  const toX = (v) => box.left + ((v - x[0]) / (x[1] - x[0] || 1)) * (box.right - box.left);
  const toY = (v) => box.bottom - ((lift(v) - y0) / (y1 - y0 || 1)) * (box.bottom - box.top);
  const marks = logged ? ticks(Math.floor(y0), Math.ceil(y1), 6).map((e) => 10 ** e).filter((v) => v >= y[0] && v <= y[1]) : ticks(y[0], y[1], 5);
  for (const v of marks) {
    root.append(svg("line", { class: "grid-line", x1: box.left, x2: box.right, y1: toY(v), y2: toY(v) }));
    root.append(svg("text", { x: box.left - 6, y: toY(v) + 4, "text-anchor": "end" }, brief(v)));
  }
  for (const v of ticks(x[0], x[1], 10).filter((v) => !wholeX || Number.isInteger(v))) {
    root.append(svg("line", { class: "axis", x1: toX(v), x2: toX(v), y1: box.bottom, y2: box.bottom + 4 }));
    root.append(svg("text", { x: toX(v), y: box.bottom + 16, "text-anchor": "middle" }, brief(v)));
  }
  root.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  root.append(svg("text", { x: (box.left + box.right) / 2, y: height - 3, "text-anchor": "middle" }, label));
  return { root, toX, toY, box };
}

/** Accuracy by length of several runs, with intervals and the trained lengths shaded. */
function accuracyChart(runs) {
  const lengths = runs.flatMap((run) => run.rows.map((row) => row.length));
  const [low, high] = [Math.min(...lengths), Math.max(...lengths)];
  const { root, toX, toY, box } = axes({ width: 1120, height: 330, x: [low - 0.5, high + 0.5], y: [0, 1], label: "length of the problem", wholeX: true });
  const shaded = new Set();
  for (const run of runs) {
    const [from, to] = run.trained_lengths;
    if (shaded.has(`${from}-${to}`)) continue;
    shaded.add(`${from}-${to}`);
    const [x0, x1] = [Math.max(from - 0.5, low - 0.5), Math.min(to + 0.5, high + 0.5)];
    if (x1 > x0) root.prepend(svg("rect", { x: toX(x0), width: toX(x1) - toX(x0), y: box.top, height: box.bottom - box.top, fill: "var(--shade)" }));
  }
  runs.forEach((run, n) => {
    const rows = run.rows, at = (row, key) => `${toX(row.length).toFixed(1)},${toY(row[key]).toFixed(1)}`;
    const band = [...rows.map((row) => at(row, "high")), ...[...rows].reverse().map((row) => at(row, "low"))];
    root.append(svg("polygon", { points: band.join(" "), fill: colour(n), opacity: 0.16 }));
    root.append(svg("polyline", { points: rows.map((row) => at(row, "accuracy")).join(" "), fill: "none", stroke: colour(n), "stroke-width": 2 }));
    for (const row of rows) {
      const dot = svg("circle", { cx: toX(row.length), cy: toY(row.accuracy), r: 3.4, fill: colour(n) });
      const said = `${run.label}, length ${row.length}: ${row.correct} of ${row.problems} right (${row.low.toFixed(3)} to ${row.high.toFixed(3)})`;
      dot.append(svg("title", {}, said));
      root.append(dot);
    }
  });
  return root;
}

/** What became of a row's problems: {outcome: count}, right answers first. */
function outcomes(row) {
  const errors = row.errors || {}, repaired = errors.repaired || 0, found = { right: row.correct - repaired };
  if (repaired) found.repaired = repaired;
  for (const [name, count] of Object.entries(errors)) if (name !== "repaired") found[name] = count;
  return found;
}

const KNOWN = ["right", "repaired", "wrong_computation", "wrong_call"];
const SHADES = { bad_call: 1, max_depth: 0.85, context_full: 0.7, stack_full: 0.6, token_budget: 0.5, call_budget: 0.4, cycle: 0.3 };

/** The fill of an outcome: a colour, and for the ways to end early its opacity. */
function shade(name) {
  return KNOWN.includes(name) ? [`var(--e-${name})`, 1] : ["var(--e-other)", SHADES[name] || 0.5];
}

/** Stacked shares of outcomes by length of one run. */
function outcomeChart(run) {
  const { root, toX, toY } = axes({ width: 1120, height: 210, x: [run.rows[0].length - 0.7, run.rows[run.rows.length - 1].length + 0.7], y: [0, 1], label: "length of the problem", wholeX: true });
  const gaps = run.rows.slice(1).map((row, n) => row.length - run.rows[n].length);
  const width = Math.max(2, Math.min(40, (toX(1) - toX(0)) * Math.min(...gaps, 4) * 0.82));
  for (const row of run.rows) {
    let below = 0;
    for (const [name, count] of Object.entries(outcomes(row))) {
      const share = count / row.problems, [fill, opacity] = shade(name);
      const bar = svg("rect", { x: toX(row.length) - width / 2, width, y: toY(below + share), height: Math.max(0, toY(below) - toY(below + share)), fill, opacity });
      bar.append(svg("title", {}, `length ${row.length}: ${name.replace("_", " ")} ${count} of ${row.problems}`));
      root.append(bar);
      below += share;
    }
  }
  return root;
}

/** A training curve of several runs: `name` is a key of their curves. */
function curveChart(runs, name) {
  const points = runs.flatMap((run) => run.curves[name] || []);
  const values = points.map((p) => p[1]), steps = points.map((p) => p[0]);
  const positive = values.filter((v) => v > 0);
  const logged = name === "loss" && positive.length === values.length && Math.max(...values) / Math.min(...positive) > 20;
  let y = [logged ? Math.min(...positive) : Math.min(0, ...values), Math.max(...values) || 1];
  if (name === "token_accuracy") y = [Math.min(0.5, ...values), 1];
  const label = logged ? "step (logarithmic)" : "step";
  const { root, toX, toY } = axes({ width: 360, height: 200, x: [Math.min(0, ...steps), Math.max(...steps)], y, label, logged });
  runs.forEach((run, n) => {
    const line = (run.curves[name] || []).map(([step, value]) => `${toX(step).toFixed(1)},${toY(value).toFixed(1)}`);
    root.append(svg("polyline", { points: line.join(" "), fill: "none", stroke: colour(n), "stroke-width": 1.6 }));
  });
  return root;
}
