// Which model answers, in words, with a link to its run where there is one.

import { count, element } from "./element.js";

const METRICS = 12;

// "version 3" of a registered model; the folder's name of another.
export function version(model) {
  const said = String(model.version || model.digest || "");
  return /^\d+$/.test(said) ? `version ${said}` : said.split("/").filter(Boolean).slice(-2).join("/");
}

export function named(champion) {
  return champion ? `${version(champion)} · ${String(champion.encoder).split("/").pop()}` : "no model";
}

// Rows for a <dl> of what serves, what is tried beside it, and what did not load.
export function facts(state, tree) {
  const { champion, canary } = state;
  const rows = [];
  if (champion) {
    rows.push(["model", version(champion)], ["run", champion.run_id, champion.link], ["trained on", champion.data],
      ["digest", champion.digest], ["encoder", champion.encoder],
      ["tree", `${champion.depth} levels, ${count(2 ** champion.depth)} leaves, ${champion.similarity}`],
      ["corpus", `${count(tree.passages)} passages` + (tree.sampled < tree.passages ? `, explained by ${count(tree.sampled)}` : "")]);
    for (const [name, value] of Object.entries(champion.metrics || {}).slice(0, METRICS)) rows.push([name, value.toFixed(4)]);
  }
  rows.push(["does not serve", state.fault]);
  if (canary) rows.push(["canary", `${version(canary)}, ${Math.round(100 * canary.share)} % of searches`]);
  rows.push(["canary does not serve", state.canary_fault]);
  return rows.filter(([, value]) => value).flatMap(([name, value, url]) => [element("dt", {}, name), element("dd", {}, link(url, value))]);
}

function link(url, text) {
  if (!/^https?:\/\//.test(url || "")) return text;
  return element("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, text);
}
