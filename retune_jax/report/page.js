"use strict";
// The page: reads the runs' results out of the data element and fills the sections in.

const { runs, version } = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const methods = new Set(runs.map((run) => run.method));
for (const run of runs) run.label = runs.length === 1 || methods.size === runs.length ? run.method : run.name;

/** A table of texts: cells may be elements. */
function table(head, rows) {
  const made = html("table"), top = html("tr");
  for (const name of head) top.append(html("th", "", name));
  made.append(top);
  for (const cells of rows) {
    const row = html("tr");
    for (const cell of cells) {
      if (cell instanceof Node) row.append(cell);
      else row.append(html("td", "", String(cell)));
    }
    made.append(row);
  }
  return made;
}

function legend(entries) {
  const made = html("div", "legend");
  for (const [name, fill, opacity] of entries) {
    const entry = html("span"), box = html("i");
    box.style.background = fill;
    box.style.opacity = opacity === undefined ? 1 : opacity;
    entry.append(box, name.replaceAll("_", " "));
    made.append(entry);
  }
  return made;
}

const share = (rows) => {
  const [correct, problems] = ["correct", "problems"].map((key) => rows.reduce((sum, row) => sum + row[key], 0));
  return problems ? `${((100 * correct) / problems).toFixed(1)}%` : "–";
};

// In short

const tasks = [...new Set(runs.map((run) => run.task.replaceAll("_", " ")))].join(", ");
by("title").textContent = runs.length === 1 ? `${tasks} by ${runs[0].method}` : `${tasks}: ${runs.length} runs side by side`;
document.title = `${by("title").textContent} · retune_jax`;
runs.forEach((run, n) => {
  const fact = html("div", "fact"), head = html("span"), who = html("i", "who"), [low, high] = run.trained_lengths;
  who.style.background = colour(n);
  head.append(who, `${run.label}${run.model ? `, ${run.model}` : ""}`);
  const trained = run.rows.filter((row) => row.length >= low && row.length <= high), longer = run.rows.filter((row) => row.length > high);
  fact.append(head, html("b", "", `${share(trained)} → ${share(longer)}`));
  fact.append(html("span", "", `right at the trained lengths (${low} to ${high}) → at longer ones${longer.length ? ` (to ${longer[longer.length - 1].length})` : ""}`));
  const f = run.facts;
  if (f.problems) {
    const speed = f.seconds ? `, ${brief(f.tokens / f.seconds)} tokens/s` : "";
    fact.append(html("br"), html("span", "", `${f.problems} problems, ${f.contexts} contexts, at most ${f.deepest} calls deep, ${f.tokens} tokens in ${f.seconds.toFixed(1)} s${speed}`));
  }
  const work = run.work || {};
  if (work.computed) {
    const spared = `${work.kept || 0} kept of callers, ${work.guessed || 0} by guesses that held, ${work.spared || 0} by the memo`;
    fact.append(html("br"), html("span", "", `${work.computed} tokens fed to the model; not computed: ${spared}`));
  }
  by("facts").append(fact);
});

// Accuracy, outcomes

by("accuracy").append(accuracyChart(runs), legend(runs.map((run, n) => [run.label, colour(n)])));
const rowTable = runs.flatMap((run) => run.rows.map((row) => [
  ...(runs.length > 1 ? [run.label] : []), row.length, row.problems, row.accuracy.toFixed(3), `${row.low.toFixed(3)} – ${row.high.toFixed(3)}`,
  Object.entries(row.statuses).map(([name, count]) => `${name} ${count}`).join(", "),
  Object.entries(row.errors).map(([name, count]) => `${name} ${count}`).join(", "),
]));
const rowHead = [...(runs.length > 1 ? ["run"] : []), "length", "problems", "accuracy", "95% interval", "statuses", "errors"];
by("rows").className = "scroll";
by("rows").append(table(rowHead, rowTable));
const seen = new Set();
for (const run of runs) {
  const part = html("div", "outcome");
  if (runs.length > 1) part.append(html("h3", "", run.label));
  part.append(outcomeChart(run));
  by("outcomes").append(part);
  for (const row of run.rows) for (const name of Object.keys(outcomes(row))) seen.add(name);
}
const order = [...KNOWN, ...Object.keys(SHADES)].filter((name) => seen.has(name));
by("outcomes").append(legend(order.map((name) => [name, ...shade(name)])));

// Call trees

const samples = runs.flatMap((run, n) => run.trees.map((problem) => ({ run, n, problem })));
const outcomeOf = (problem) => problem.error || "right";
const tree = new Tree(by("tree"), (index) => {
  by("context").replaceChildren(contextView(tree.problem, index, tree.opening, (callee) => tree.reveal(callee)));
});
let listed = [];

function list(filter) {
  listed = samples.filter(({ problem, n }) => filter === "all" || filter === outcomeOf(problem) || (filter === "wrong" && !problem.correct) || filter === `run ${n}`);
  by("problems").replaceChildren(...listed.map(({ problem, n }, at) => {
    const entry = html("div", problem.correct ? "" : "is-wrong");
    const mark = html("span", problem.correct ? "good" : "bad", problem.correct ? "✓ " : "✗ ");
    if (runs.length > 1) mark.style.borderLeft = `4px solid ${colour(n)}`, (mark.style.paddingLeft = "4px");
    entry.append(mark, html("span", "", `${problem.length}: `), html("span", "mono", problem.prompt));
    entry.setAttribute("role", "option");
    entry.title = problem.prompt;
    entry.addEventListener("click", () => pick(at));
    return entry;
  }));
  if (listed.length) pick(0);
}

function pick(at) {
  const entries = by("problems").children;
  for (const entry of entries) entry.setAttribute("aria-selected", "false");
  entries[at].setAttribute("aria-selected", "true");
  bringIntoSight(entries[at], by("problems"));
  by("problems").dataset.at = at;
  const { run, problem } = listed[at];
  tree.opening = run.opening;
  tree.open(problem);
  by("to-mistake").disabled = tree.firstMistake() === null;
  const said = problem.correct ? `right: ${problem.value}` : `wrong: ${problem.value || problem.status}, the answer is ${problem.answer}`;
  by("verdict").textContent = `${said} · ${problem.contexts.length} contexts, ${problem.tokens} tokens`;
  by("verdict").className = problem.correct ? "good" : "bad";
}

if (samples.length) {
  const counts = { all: samples.length, wrong: samples.filter(({ problem }) => !problem.correct).length };
  for (const { problem } of samples) counts[outcomeOf(problem)] = (counts[outcomeOf(problem)] || 0) + 1;
  if (runs.length > 1) runs.forEach((run, n) => (counts[`run ${n}`] = run.trees.length));
  for (const [name, count] of Object.entries(counts)) {
    if (!count) continue;
    const option = html("option", "", `${name.startsWith("run ") ? runs[+name.slice(4)].label : name.replaceAll("_", " ")} (${count})`);
    option.value = name;
    by("filter").append(option);
  }
  by("filter").addEventListener("change", () => list(by("filter").value));
  by("problems").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], to = +by("problems").dataset.at + step;
    if (!step || to < 0 || to >= listed.length) return;
    event.preventDefault();
    pick(to);
  });
  by("to-mistake").addEventListener("click", () => tree.firstMistake() !== null && tree.reveal(tree.firstMistake()));
  by("unfold").addEventListener("click", () => tree.unfoldAll(by("tree").firstChild));
  by("fold").addEventListener("click", () => tree.foldAll());
  list("all");
  const firstWrong = listed.findIndex(({ problem }) => !problem.correct);
  if (firstWrong >= 0) pick(firstWrong);
} else by("trees-section").hidden = true;

// Where wrong answers began

const wrong = runs.flatMap((run, n) => run.wrong.map((found) => ({ run, n, found })));
const mono = (text) => html("td", "mono", text);
function mistakeRow({ run, n, found }) {
  const first = found.first_mistake, row = html("tr");
  const kept = samples.find((sample) => sample.n === n && sample.problem.prompt === found.prompt);
  const name = html("td", "", (runs.length > 1 ? `${run.label}, ` : "") + found.length);
  const right = first && first.right ? first.right.trim() : "";
  row.append(name, html("td", "", first ? first.kind.replaceAll("_", " ") : "wrong"), html("td", "", first ? first.depth : ""));
  row.append(mono(first ? first.asked : found.prompt), mono(first ? first.returned.join("; ") : ""));
  row.append(mono(first ? first.wrote.trim() : found.value), mono(first ? right : found.answer), html("td", "", kept ? "tree" : ""));
  if (kept) {
    row.className = "opens";
    row.tabIndex = 0;
    const open = () => {
      by("filter").value = "all";
      list("all");
      pick(listed.indexOf(kept));
      by("trees-section").scrollIntoView({ behavior: "smooth" });
    };
    row.addEventListener("click", open);
    row.addEventListener("keydown", (event) => event.key === "Enter" && open());
  }
  return row;
}
if (wrong.length) {
  const shown = table(["length", "mistake", "calls deep", "was asked", "got back", "wrote", "is right", ""], []), box = html("div", "scroll");
  shown.append(...wrong.slice(0, 300).map(mistakeRow));
  box.append(shown);
  by("mistakes").append(box);
  if (wrong.length > 300) by("mistakes").append(html("p", "hint", `The first 300 of ${wrong.length}; samples.json holds all.`));
} else by("mistakes").append(html("p", "", runs.some((run) => run.facts.problems) ? "No answer is wrong." : "This evaluation kept no samples."));

// Training, settings

const names = ["loss", "token_accuracy", "learning_rate", "grad_norm", "tokens_per_s"];
for (const name of names.filter((name) => runs.some((run) => (run.curves[name] || []).length > 1))) {
  const part = html("div");
  part.append(html("h3", "", name.replaceAll("_", " ")), curveChart(runs, name));
  by("training").append(part);
}
if (!by("training").children.length) by("training-section").hidden = true;
for (const run of runs.filter((run) => run.command)) by("commands").append(html("pre", "", run.command));
const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
by("config").append(table(["key", ...runs.map((run) => run.label)], keys.map((key) => {
  const values = runs.map((run) => (key in run.config ? JSON.stringify(run.config[key]) : "–"));
  return [mono(key), ...values.map((value) => html("td", `mono${new Set(values).size > 1 ? " differs" : ""}`, value))];
})));
by("footer").textContent = `retune_jax ${version}`;

// Light and dark: as the system says, until the button is pressed.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  document.documentElement.dataset.theme = name;
  by("theme").textContent = name === "dark" ? "☀ light" : "☾ dark";
}
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
by("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
