// Which model answers, in words, with a link to its run where there is one.

import { count, element } from "./element.js";

const METRICS = 12;

// "version 3" of a registered model; the folder's name of another.
export function version(model) {
  const said = String(model.version || model.digest || "");
  return /^\d+$/.test(said) ? `version ${said}` : said.split("/").filter(Boolean).slice(-2).join("/");
}

export function named(model) {
  return `${version(model)} · ${String(model.encoder).split("/").pop()}`;
}

// Rows for a <dl> of what serves, what is tried beside it, and what did not load.
export function facts(model, tree) {
  const { canary } = model;
  const sample = tree.sampled < tree.passages ? `, explained by ${count(tree.sampled)}` : "";
  const rows = [
    ["model", version(model)],
    ["run", model.run_id, model.run_url],
    ["trained on", model.data],
    ["digest", model.digest],
    ["encoder", model.encoder],
    ["tree", `${model.depth} levels, ${count(2 ** model.depth)} leaves, ${model.similarity}`],
    ["corpus", `${count(model.documents)} passages${sample}`],
    ...Object.entries(model.metrics).slice(0, METRICS).map(([name, value]) => [name, value.toFixed(4)]),
    ["does not load", model.fault],
    ["canary", canary && `${version(canary)}, ${Math.round(100 * canary.share)} % of searches`],
    ["canary does not load", model.canary_fault],
  ];
  return rows.filter(([, value]) => value).flatMap(([name, value, url]) => [element("dt", {}, name), element("dd", {}, link(url, value))]);
}

function link(url, text) {
  if (!/^https?:\/\//.test(url || "")) return text;
  return element("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, text);
}
