// The card of a node: its name and words, its size, its typical passages.

import { count, element, label, share } from "./element.js";

// Fills `card` with a node in the form of v1/nodes.
export function fill(card, told, { query, passages, nodes, choose }) {
  const first = told.words.slice(0, 3).join(" · ");
  const title = told.name || first || (told.level ? "no words of its own" : "the whole corpus");
  const others = told.words.slice(told.name ? 0 : 3).join(" · ");
  const kept = card.contains(document.activeElement);
  const close = element("button", { class: "close", type: "button", "aria-label": "Close", onclick: () => choose(null) }, "×");
  card.replaceChildren(
    element("header", {},
      element("span", {}, `level ${told.level} · node ${told.id} · ${count(told.size)} passages, ${share(told.size / passages)}`),
      query === null ? null : element("b", { title: "the query's probability of reaching this node" }, `query ${share(query)}`),
      close),
    element("h2", { dir: "auto" }, title),
    others ? element("p", { class: "others" }, others) : "",
    element("nav", { class: "words", "aria-label": "Neighbours" }, ...neighbours(told, nodes, choose)),
    told.examples.length ? element("h3", {}, "Typical passages") : "",
    element("ol", {}, ...told.examples.map(example)),
  );
  card.hidden = false;
  card.scrollTop = 0;
  if (kept) close.focus();
}

function neighbours(told, nodes, choose) {
  const go = (id, sign) => element("button", { type: "button", onclick: () => choose(id) },
    `${sign} ${label(nodes[id], 2) || `node ${id}`}`);
  const up = told.parent === null ? [] : [told.parent === 0 ? go(0, "↑ root") : go(told.parent, "↑")];
  return [...up, ...told.children.map((id, i) => go(id, i ? "↘" : "↙"))];
}

function example(passage) {
  return element("li", {},
    element("span", { title: "its probability of reaching this node" }, share(passage.probability)),
    element("b", { dir: "auto" }, passage.title || passage.id),
    element("p", { dir: "auto" }, passage.text));
}
