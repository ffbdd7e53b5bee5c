// Describes the model that answers, with a link to its run if there is one.

import { count, element, share } from "./element.js";

const METRICS = 12;

// "version 3" for a registered model, else the name of its folder.
export function version(model) {
  const said = String(model.version || model.digest || "");
  return /^\d+$/.test(said) ? `version ${said}` : said.split("/").filter(Boolean).slice(-2).join("/");
}

export function named(model) {
  return `${version(model)} · ${String(model.encoder).split("/").pop()}`;
}

// Rows of a <dl>: the version that serves, the canary, and why either failed to load.
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
    ["relevance", off(model)],
    ["corpus", `${count(model.documents)} passages${sample}`],
    ...Object.entries(model.metrics).slice(0, METRICS).map(([name, value]) => [name, value.toFixed(4)]),
    ["does not load", model.fault],
    ["canary", canary && `${version(canary)}, ${Math.round(100 * canary.share)} % of searches`],
    ["canary does not load", model.canary_fault],
  ];
  return rows.filter(([, value]) => value).flatMap(([name, value, url]) => [element("dt", {}, name), element("dd", {}, link(url, value))]);
}

// By how much the relevance of the first ten hits is off at the last level.
function off(model) {
  const report = model.relevance && model.relevance[model.depth];
  return report && `off by ${share(report.calibration_error)} on average, by ${share(report.first_hit_calibration_error)} for the first hit`;
}

function link(url, text) {
  if (!/^https?:\/\//.test(url || "")) return text;
  return element("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, text);
}
