"use strict";
// Browsing: one problem's contexts as a flat list of rows. A row is made when it is unfolded, so large trees open at once.

/** Where a context went wrong: "wrong" (a mistake in it), "passed" (a wrong value, rightly computed), "right", or "" (unknown). */
function verdictOf(context) {
  if (context.segments.some((segment) => segment.wrong)) return "wrong";
  if (context.status !== "ok") return "passed";
  if (context.right_value === null) return "";
  return context.right_value === context.value ? "right" : "passed";
}

const MARKS = { wrong: "✗", passed: "~", right: "✓", "": "·" };
const DEEPEST = 10; // levels shown by indentation

class Tree {
  constructor(root, shown) {
    this.root = root;
    this.shown = shown; // called with a context's index when it is chosen
    root.addEventListener("click", (event) => this.clicked(event));
    root.addEventListener("keydown", (event) => this.pressed(event));
  }

  /** Shows the tree of a problem, its first contexts unfolded down to the first mistake. */
  open(problem) {
    this.problem = problem;
    this.contexts = problem.contexts;
    this.children = this.contexts.map((context) => context.segments.map((s) => s.callee).filter((callee) => callee !== null));
    this.root.classList.toggle("many", this.contexts.length > 300); // rows out of sight are not laid out then
    this.root.replaceChildren(this.row(0));
    const wrong = this.firstMistake();
    if (wrong === null) {
      this.unfold(this.root.firstChild);
      this.choose(this.root.firstChild, false);
    } else this.reveal(wrong, false);
  }

  /** The context in which the first mistake was made; null where there is none. */
  firstMistake() {
    const waiting = [[0, 0]];
    while (waiting.length) {
      const [index, at] = waiting.pop(), segments = this.contexts[index].segments;
      if (at === segments.length) continue;
      if (segments[at].wrong) return index;
      waiting.push([index, at + 1]);
      if (segments[at].callee !== null) waiting.push([segments[at].callee, 0]);
    }
    return null;
  }

  row(index) {
    const context = this.contexts[index], verdict = verdictOf(context), depth = context.depth;
    const row = html("div", `node${verdict ? ` is-${verdict}` : ""}`);
    row.dataset.index = index;
    row.setAttribute("role", "treeitem");
    row.setAttribute("aria-level", depth + 1);
    row.tabIndex = -1;
    row.style.paddingLeft = `${8 + 14 * Math.min(depth, DEEPEST)}px`;
    const folds = this.children[index].length > 0;
    if (folds) row.setAttribute("aria-expanded", "false");
    row.append(html("span", "fold", folds ? "▸" : ""));
    row.append(html("span", "mark", MARKS[verdict]));
    if (depth > DEEPEST) row.append(html("span", "deep", String(depth)));
    row.append(html("span", "asks mono", context.prompt));
    row.append(html("span", "gives mono", context.status === "ok" ? `→ ${context.value}` : `(${context.status.replace("_", " ")})`));
    const said = { wrong: "wrong", passed: "a wrong value passed on", right: "right", "": "" }[verdict];
    row.setAttribute("aria-label", `${context.prompt}, value ${context.value}${said ? `, ${said}` : ""}`);
    return row;
  }

  unfold(row) {
    if (row.getAttribute("aria-expanded") !== "false") return;
    row.setAttribute("aria-expanded", "true");
    row.firstChild.textContent = "▾";
    row.after(...this.children[row.dataset.index].map((index) => this.row(index)));
  }

  fold(row) {
    if (row.getAttribute("aria-expanded") !== "true") return;
    row.setAttribute("aria-expanded", "false");
    row.firstChild.textContent = "▸";
    const level = +row.getAttribute("aria-level");
    while (row.nextSibling && +row.nextSibling.getAttribute("aria-level") > level) row.nextSibling.remove();
  }

  /** Unfolds a row and all below it. */
  unfoldAll(row) {
    this.fold(row);
    const rows = document.createDocumentFragment();
    const waiting = [...this.children[row.dataset.index]].reverse();
    while (waiting.length) {
      const index = waiting.pop(), made = this.row(index);
      if (this.children[index].length) {
        made.setAttribute("aria-expanded", "true");
        made.firstChild.textContent = "▾";
      }
      rows.append(made);
      waiting.push(...[...this.children[index]].reverse());
    }
    if (this.children[row.dataset.index].length) {
      row.setAttribute("aria-expanded", "true");
      row.firstChild.textContent = "▾";
    }
    row.after(rows);
  }

  foldAll() {
    this.root.replaceChildren(this.row(0));
    this.choose(this.root.firstChild, false);
  }

  find(index) {
    return this.root.querySelector(`[data-index="${index}"]`);
  }

  /** Unfolds the way to a context and chooses it. */
  reveal(index, focus = true) {
    const way = [];
    for (let at = this.contexts[index].caller; at !== null; at = this.contexts[at].caller) way.push(at);
    for (const at of way.reverse()) this.unfold(this.find(at));
    this.choose(this.find(index), focus);
  }

  choose(row, focus = true) {
    if (!row) return;
    for (const old of this.root.querySelectorAll('[aria-selected="true"]')) {
      old.setAttribute("aria-selected", "false");
      old.tabIndex = -1;
    }
    row.setAttribute("aria-selected", "true");
    row.tabIndex = 0;
    if (focus) row.focus({ preventScroll: true });
    bringIntoSight(row, this.root);
    this.chosen = +row.dataset.index;
    this.shown(this.chosen);
  }

  clicked(event) {
    const row = event.target.closest(".node");
    if (!row) return;
    if (event.target.className === "fold" || row.getAttribute("aria-selected") === "true") {
      if (row.getAttribute("aria-expanded") === "true") this.fold(row);
      else this.unfold(row);
    }
    this.choose(row);
  }

  pressed(event) {
    const row = event.target.closest(".node");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const unfolded = row.getAttribute("aria-expanded"), context = this.contexts[row.dataset.index];
    const actions = {
      ArrowDown: () => this.choose(row.nextSibling),
      ArrowUp: () => this.choose(row.previousSibling),
      ArrowRight: () => (unfolded === "false" ? this.unfold(row) : unfolded === "true" && this.choose(row.nextSibling)),
      ArrowLeft: () => (unfolded === "true" ? this.fold(row) : context.caller !== null && this.choose(this.find(context.caller))),
      Home: () => this.choose(this.root.firstChild),
      End: () => this.choose(this.root.lastChild),
      "*": () => this.unfoldAll(row),
      Enter: () => (unfolded === "true" ? this.fold(row) : this.unfold(row)),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}

/** The whole window of a context: what it was asked, what the model wrote, what was pasted, and what would have been right. */
function contextView(problem, index, opening, reveal) {
  const context = problem.contexts[index], view = document.createDocumentFragment(), text = html("pre", "");
  view.append(html("b", "", index === 0 ? "The problem" : `${context.depth} call${context.depth > 1 ? "s" : ""} deep`));
  text.append(html("span", "", context.prompt + opening));
  const notes = [];
  context.segments.forEach((segment, n) => {
    text.append(html("mark", segment.wrong ? "model wrong" : "model", segment.text.replace(/\n$/, "")));
    if (segment.wrong) notes.push(["says", `${segment.wrong.replace("_", " ")}: it wrote “${segment.text.trim()}”, and “${segment.right.trim()}” is right.`]);
    if (segment.callee !== null) {
      const link = html("a", "callee", " ↳ open");
      link.tabIndex = 0;
      link.setAttribute("role", "button");
      link.addEventListener("click", () => reveal(segment.callee));
      link.addEventListener("keydown", (event) => event.key === "Enter" && reveal(segment.callee));
      text.append(link);
      if (segment.returned !== undefined && n < context.segments.length - 1) text.append(html("span", "", `\nReturn: ${segment.returned}\nAnswer:`));
    }
  });
  view.append(text);
  if (context.status !== "ok") notes.push(["says", `The problem ended here or below: ${context.status.replace("_", " ")}.`]);
  else if (verdictOf(context) === "passed") notes.push(["says passed", `Rightly computed from a wrong value: “${context.right_value}” is the true one.`]);
  for (const [kind, said] of notes) view.append(html("div", kind, said));
  return view;
}

// Scrolls a box until one of its rows is seen, and nothing but the box: the page stays where the reader is.
function bringIntoSight(row, box) {
  const [top, height] = [row.offsetTop - box.offsetTop, box.clientHeight];
  if (top < box.scrollTop || top + row.offsetHeight > box.scrollTop + height) box.scrollTop = top - height / 3;
}
