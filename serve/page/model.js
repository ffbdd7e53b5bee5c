// Which model answers, in words, with a link to its run where there is one.

import { count, element } from "./element.js";

export function named(model) {
  const version = model.version ? `version ${model.version}` : `model ${String(model.digest).slice(0, 8)}`;
  return `${version} · ${String(model.encoder || "").split("/").pop()}`;
}

export function facts(model, tree) {
  const rows = [
    ["version", model.version],
    ["run", model.run_id],
    ["model", model.digest],
    ["encoder", model.encoder],
    ["tree", `${model.depth} levels, ${count(2 ** model.depth)} leaves, ${model.similarity}`],
    ["corpus", `${count(tree.passages)} passages` + (tree.sampled < tree.passages ? `, explained by ${count(tree.sampled)}` : "")],
    ...Object.entries(model.metrics || {}).map(([name, value]) => [name, Number(value).toFixed(4)]),
  ];
  return rows.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [
    element("dt", {}, name),
    element("dd", {}, name === "run" ? link(model.run_url, value) : value),
  ]);
}

function link(url, text) {
  if (!/^https?:\/\//.test(url || "")) return text;
  return element("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, text);
}
