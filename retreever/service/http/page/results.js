// The list of passages found. A passage keeps its element while it is in the list, so that it moves where ranks change.

import { calm, element, label, share } from "./element.js";
import { marked, words } from "./highlight.js";

const EXCERPT = 420;

export class Results {
  // `place` gets the id of a chosen node; `point` gets the hit under the pointer, or null.
  constructor(list, place, point) {
    this.list = list;
    this.place = place;
    this.point = point;
    this.shown = new Map();
    this.ranks = new Map();
    list.addEventListener("keydown", (event) => this.key(event));
  }

  show(hits, query) {
    const wanted = words(query);
    const before = new Map([...this.shown].map(([id, item]) => [id, item.getBoundingClientRect().top]));
    const known = query === this.query ? this.ranks : new Map();
    const held = document.activeElement;
    const items = new Map(hits.map((hit, rank) => {
      const item = this.shown.get(hit.id) || this.item();
      this.fill(item, hit, rank, known.size ? (known.get(hit.id) ?? hits.length) - rank : 0, wanted);
      return [hit.id, item];
    }));
    this.list.replaceChildren(...items.values());
    if (held && this.list.contains(held)) held.focus({ preventScroll: true });
    if (known.size && !calm.matches) this.glide(items, before);
    this.shown = items;
    this.query = query;
    this.ranks = new Map(hits.map((hit, rank) => [hit.id, rank]));
  }

  clear() {
    this.list.replaceChildren();
    this.shown = new Map();
    this.ranks = new Map();
  }

  glide(items, before) {
    for (const [id, item] of items) {
      const by = before.has(id) ? before.get(id) - item.getBoundingClientRect().top : 0;
      const from = before.has(id) ? { transform: `translateY(${by}px)` } : { opacity: 0 };
      if (by || !before.has(id)) item.animate([from, {}], { duration: 220, easing: "cubic-bezier(.2,.7,.2,1)" });
    }
  }

  item() {
    const item = element("li", { class: "hit", tabindex: 0 });
    item.addEventListener("click", (event) => {
      if (!event.target.closest("button") && !String(getSelection())) this.toggle(item);
    });
    item.addEventListener("pointerenter", () => this.point(item.hit));
    item.addEventListener("pointerleave", () => this.point(null));
    item.addEventListener("focus", () => this.point(item.hit));
    item.addEventListener("blur", () => this.point(null));
    return item;
  }

  fill(item, hit, rank, moved, wanted) {
    Object.assign(item, { hit, wanted, rank, moved });
    const arrow = moved ? `${moved > 0 ? "▲" : "▼"}${Math.abs(moved)}` : "";
    const open = item.classList.contains("open");
    item.replaceChildren(
      element("header", {},
        element("span", { class: "rank" }, rank + 1),
        element("h2", { dir: "auto" }, hit.title || hit.id),
        arrow && element("span", { class: moved > 0 ? "move up" : "move", title: "places moved" }, arrow),
        this.worth(hit)),
      element("p", { class: "text", dir: "auto" }, ...marked(hit.text, wanted, open ? Infinity : EXCERPT)),
      open && hit.title ? element("p", { class: "id" }, hit.id) : "",
      open && hit.relevance !== null ? element("p", { class: "similarity" }, `similarity ${hit.score.toFixed(4)}`) : "",
      this.way(hit),
      open ? this.why(hit) : "",
    );
  }

  // The probability that the passage is relevant; its similarity where the model has none for this level.
  worth(hit) {
    const [title, text] = hit.relevance === null
      ? ["similarity", hit.score.toFixed(4)]
      : ["probability that it is relevant", share(hit.relevance)];
    return element("span", { class: "score", title }, text);
  }

  // A few nodes of the passage's path, from the trunk to the leaf, by their names or words.
  way(hit) {
    const path = (hit.why ? hit.why.path : []).filter((node) => label(node, 2));
    const last = path.length - 1;
    const chosen = [...new Set([Math.round(last / 3), Math.round((2 * last) / 3), last])].map((i) => path[i]).filter(Boolean);
    const parts = chosen.flatMap((node, i) => [
      i ? element("i", { "aria-hidden": "true" }, "›") : null,
      element("button", { type: "button", title: `node ${node.id}, level ${node.level}`, onclick: () => this.place(node.id) },
        label(node, 2)),
    ]);
    return element("nav", { class: "place", "aria-label": "Place in the tree" }, ...parts);
  }

  // Where the passage's path leaves that of the query, and the nodes where they meet nevertheless.
  why(hit) {
    if (!hit.why || !hit.why.path.length) return "";
    const last = hit.why.path.at(-1);
    const parting = hit.why.path.find((node) => node.id === hit.why.parting);
    const said = hit.why.parting === last.id ? `the query goes the same way, to ${this.called(last)}`
      : parting ? `the query goes the same way as far as ${this.called(parting)}, level ${parting.level}`
      : "the query goes another way from the root on";
    const meeting = hit.why.leaves.filter((leaf) => leaf.share > 0).map((leaf) => element("li", {},
      element("span", {}, label(leaf, 5) || `node ${leaf.id}`), element("span", {}, share(leaf.share))));
    return element("div", { class: "why" }, element("p", {}, said),
      meeting.length ? "where query and passage meet, and what part of it" : "", element("ul", {}, ...meeting));
  }

  called(node) {
    return label(node, 3) || `node ${node.id}`;
  }

  toggle(item) {
    item.classList.toggle("open");
    this.fill(item, item.hit, item.rank, item.moved, item.wanted);
  }

  key(event) {
    const item = event.target.closest(".hit");
    if (!item) return;
    const to = { ArrowDown: item.nextElementSibling, ArrowUp: item.previousElementSibling }[event.key];
    if (to) to.focus();
    else if (event.key === "ArrowUp") document.getElementById("query").focus();
    else if ((event.key === "Enter" || event.key === " ") && event.target === item) this.toggle(item);
    else return;
    event.preventDefault();
  }
}
