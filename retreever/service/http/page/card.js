// The card of a node: its words, its size, its most likely passages.

import { count, element, share } from "./element.js";

// Fills `card` with a node in the form of v1/nodes.
export function fill(card, told, { lean, passages, words, choose }) {
  const title = told.words.slice(0, 3).join(" · ") || (told.level ? "no words of its own" : "the whole corpus");
  const kept = card.contains(document.activeElement);
  const close = element("button", { class: "close", type: "button", "aria-label": "Close", onclick: () => choose(null) }, "×");
  card.replaceChildren(
    element("header", {},
      element("span", {}, `level ${told.level} · node ${told.id} · ${count(told.size)} passages, ${share(told.size / passages)}`),
      lean === null ? null : element("b", { title: "query's probability against the average passage's" }, `query ×${lean.toFixed(2)}`),
      close),
    element("h2", {}, title),
    told.words.length > 3 ? element("p", { class: "others" }, told.words.slice(3).join(" · ")) : "",
    element("nav", { class: "words", "aria-label": "Neighbours" }, ...neighbours(told, words, choose)),
    told.examples.length ? element("h3", {}, "Passages most likely here") : "",
    element("ol", {}, ...told.examples.map(example)),
  );
  card.hidden = false;
  card.scrollTop = 0;
  if (kept) close.focus();
}

function neighbours(told, words, choose) {
  const go = (id, sign) => element("button", { type: "button", onclick: () => choose(id) },
    `${sign} ${words(id).slice(0, 2).join(" ") || `node ${id}`}`);
  const up = told.parent === null ? [] : [told.parent === 0 ? go(0, "↑ root") : go(told.parent, "↑")];
  return [...up, ...told.children.map((id, i) => go(id, i ? "↘" : "↙"))];
}

function example(passage) {
  return element("li", {},
    element("span", { title: "its probability of reaching this node" }, share(passage.probability)),
    element("b", { dir: "auto" }, passage.title || passage.id),
    element("p", { dir: "auto" }, passage.text));
}
