// The page: turns keys and the slider into searches, and answers into the list and the flow in the tree.

import * as service from "./service.js";
import { fill } from "./card.js";
import { count, element } from "./element.js";
import { facts, named, version } from "./model.js";
import { handle } from "./hands.js";
import { Results } from "./results.js";
import { TreeCanvas } from "./canvas.js";

const STEP = 10, MOST = 100;
const PAUSE = 40; // milliseconds without a key before a search is sent
const at = (id) => document.getElementById(id);
const [query, level, status, card] = ["query", "level", "status", "node"].map(at);
const state = { k: STEP, depth: 0, digest: null, passages: 0, documents: 0, others: new Set() };

const tree = new TreeCanvas(at("tree"));
const results = new Results(at("hits"), (id) => { view("tree"); choose(id); }, point);
const searches = new service.Searches(show, fail);
handle(tree, choose);

function point(hit) {
  tree.point(hit && hit.why ? hit.why.path.map((node) => node.id) : null);
}

function choose(id) {
  tree.choose(id);
  if (id !== null) tell(id);
  else {
    if (tree.view.scale === tree.view.whole) tree.view.all();
    card.hidden = true;
  }
}

async function tell(id) {
  try {
    const told = await service.node(id);
    if (tree.chosen !== id) return;
    const query = tree.asked ? tree.to[id] : null;
    fill(card, told, { query, passages: state.passages, nodes: tree.nodes, choose });
  } catch (fault) {
    fail(fault);
  }
}

let waiting = 0;
function typed() {
  performance.clearMarks("typed");
  performance.mark("typed");
  clearTimeout(waiting);
  state.k = STEP;
  if (!query.value.trim()) return empty();
  waiting = setTimeout(ask, PAUSE);
}

function ask() {
  if (!query.value.trim() || !state.depth) return;
  searches.ask({ query: query.value, k: state.k, level: Number(level.value) });
  remember();
}

function empty() {
  searches.cancel();
  results.clear();
  tree.pour(null);
  tree.mark([], Number(level.value));
  say("");
  at("start").hidden = false;
  at("legend").hidden = true;
  at("more").hidden = true;
  remember();
}

function show(answer, asked) {
  const ours = answer.model.digest === state.digest; // another model's nodes are not those on the screen
  if (!ours) for (const hit of answer.hits) hit.why = null;
  at("start").hidden = true;
  at("legend").hidden = !ours;
  results.show(answer.hits, asked.query);
  tree.pour(ours ? answer.flow : null);
  tree.mark(answer.hits.filter((hit) => hit.why && hit.why.path.length).map((hit) => hit.why.path.at(-1).id), answer.level);
  const found = answer.hits.length ? `${answer.hits.length} of ${count(state.documents)} passages` : "nothing found";
  say(`${found} · ${answer.took_ms.toFixed(answer.took_ms < 10 ? 1 : 0)} ms · ${version(answer.model)}`);
  at("more").hidden = asked.k >= MOST || answer.hits.length < asked.k;
  performance.clearMarks("shown");
  performance.mark("shown", { detail: asked.query });
  if (!ours && !state.others.has(answer.model.digest)) load(answer.model.digest);
  if (tree.chosen !== null) tell(tree.chosen);
}

function say(text, fault = false) {
  status.textContent = text;
  status.classList.toggle("fault", fault);
}

function fail(fault) {
  say(fault instanceof TypeError ? "the service cannot be reached" : fault.message, true);
}

function told() {
  at("level-told").replaceChildren(`${level.value} of ${state.depth} · ${count(2 ** level.value)} numbers`,
    element("span", {}, " a passage"));
  level.setAttribute("aria-valuetext", `level ${level.value} of ${state.depth}`);
}

function view(name) {
  document.body.dataset.view = name;
  for (const tab of ["results", "tree"]) at(`tab-${tab}`).setAttribute("aria-pressed", tab === name);
}

function remember() {
  const asked = new URLSearchParams();
  if (query.value) asked.set("q", query.value);
  if (Number(level.value) !== state.depth) asked.set("level", level.value);
  const hash = asked.toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
}

// Read the search from the address, so that it can be bookmarked and shared.
function recall() {
  const asked = new URLSearchParams(location.hash.slice(1));
  query.value = asked.get("q") || "";
  level.value = Number(asked.get("level")) || state.depth;
}

// Load the tree, and load it again when another champion answers; a canary's answer does not change it.
async function load(seen) {
  if (seen) state.others.add(seen);
  try {
    const [found, known] = await Promise.all([service.tree(), service.model()]);
    const { digest } = known;
    if (seen && digest === state.digest) return;
    const fresh = state.depth !== found.depth;
    Object.assign(state, { depth: found.depth, passages: found.passages, documents: known.documents, digest });
    state.others.delete(digest);
    service.forget();
    card.hidden = true;
    tree.set(found);
    if (fresh) {
      const early = query.value; // typed while the tree was loading
      level.max = found.depth;
      recall();
      query.value = early || query.value;
    }
    told();
    at("model-name").textContent = named(known);
    at("model-facts").replaceChildren(...facts(known, found));
    say("");
    ask();
  } catch (fault) {
    fail(fault);
    if (fault.status === 503) setTimeout(() => load(seen), 1000 * fault.wait); // no version serves yet
  }
}

const THEMES = { dark: "light", light: "dark" };
function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  tree.colours();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input[type=search], textarea");
  if (typing) {
    if (event.key === "ArrowDown" && results.list.firstElementChild) {
      results.list.firstElementChild.focus();
      event.preventDefault();
    }
    return;
  }
  if (at("model").open) return;
  if (event.key === "/") query.focus();
  else if (event.key === "t") { view("tree"); at("tree").focus(); }
  else if (event.key === "[" || event.key === "]") {
    level.value = Number(level.value) + (event.key === "]" ? 1 : -1);
    dragged();
  } else return;
  event.preventDefault();
}

function dragged() {
  told();
  tree.mark(tree.hits, Number(level.value));
  ask();
}

query.addEventListener("input", typed);
level.addEventListener("input", dragged);
at("form").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(waiting); ask(); });
at("more").addEventListener("click", () => { state.k = Math.min(MOST, state.k + STEP); ask(); });
at("model-open").addEventListener("click", () => at("model").showModal());
at("tab-results").addEventListener("click", () => view("results"));
at("tab-tree").addEventListener("click", () => view("tree"));
at("zoom-in").addEventListener("click", () => tree.zoom(1.5));
at("zoom-out").addEventListener("click", () => tree.zoom(1 / 1.5));
at("zoom-all").addEventListener("click", () => { tree.view.all(); tree.wake(); });
at("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const name = THEMES[document.documentElement.dataset.theme || dark];
  localStorage.setItem("theme", name);
  theme(name);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(null));
document.addEventListener("keydown", keys);
addEventListener("hashchange", () => { recall(); told(); query.value ? ask() : empty(); });

theme(localStorage.getItem("theme"));
load();
