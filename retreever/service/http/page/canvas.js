// The tree drawn: branches as thick and as warm as the query that flows through them.

import { firstOf, levelOf, parentOf, positions, radiusOf, View } from "./geometry.js";
import { calm } from "./element.js";

const TONES = 10;
const GLIDE = 260; // milliseconds that a change of the flow takes
const LABELS = 48;

export class TreeCanvas {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.view = new View();
    Object.assign(this, { depth: 0, nodes: [], hits: [], chosen: null, pointed: null, level: 0, asked: false });
    this.colours();
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  colours() {
    const style = getComputedStyle(document.documentElement);
    const triple = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
    const [branch, flow] = [triple("--branch"), triple("--flow")];
    this.tones = Array.from({ length: TONES }, (_, i) => {
      const t = i / (TONES - 1);
      const mixed = branch.map((value, c) => Math.round(value + (flow[c] - value) * Math.min(1, 1.6 * t)));
      return `rgb(${mixed.join(" ")} / ${(0.22 + 0.73 * t).toFixed(2)})`;
    });
    this.plain = `rgb(${branch.join(" ")} / .5)`;
    this.leaf = `rgb(${triple("--leaf").join(" ")})`;
    this.flow = `rgb(${flow.join(" ")})`;
    for (const name of ["ink", "soft", "paper", "line"]) this[name] = style.getPropertyValue(`--${name}`).trim();
    this.font = getComputedStyle(document.body).fontFamily;
    this.wake();
  }

  // Takes a tree in the form of v1/tree.
  set(told) {
    this.depth = told.depth;
    this.nodes = told.nodes;
    this.at = positions(told.depth);
    const whole = told.nodes[0].size || 1;
    this.average = Float32Array.from(told.nodes, (node) => node.size / whole);
    this.mass = this.average.slice();
    this.from = this.mass;
    this.to = this.mass;
    this.chosen = null;
    this.level = told.depth;
    this.wake();
  }

  // Takes the masses of a query's flow; null where there is no query.
  pour(flow) {
    if (!this.nodes.length) return;
    this.asked = Boolean(flow);
    this.from = this.mass.slice();
    this.to = flow ? new Float32Array(this.average.length) : this.average;
    for (const { id, mass } of flow || []) this.to[id] = mass;
    this.poured = performance.now();
    this.wake();
  }

  mark(hits, level) {
    this.hits = hits;
    this.level = level;
    this.wake();
  }

  choose(node) {
    this.chosen = node;
    if (node !== null) this.reveal(node);
    this.wake();
  }

  point(path) {
    this.pointed = path;
    this.wake();
  }

  reveal(node) {
    const [x, y] = this.place(node);
    const edge = 60;
    const low = this.view.height * 0.5;
    if (x < edge || y < edge || x > this.view.width - edge || y > low) {
      this.view.pan(this.view.width / 2 - x, low * 0.7 - y);
    }
  }

  // Zooms around the chosen node, or the middle.
  zoom(factor) {
    this.view.zoom(factor, ...(this.chosen === null ? [] : this.place(this.chosen)));
    this.wake();
  }

  place(node) {
    return [this.view.x + this.view.scale * this.at.x[node], this.view.y + this.view.scale * this.at.y[node]];
  }

  // The node nearest to a point, within reach of a finger; null where there is none.
  nearest(x, y, reach = 18) {
    let [best, least] = [null, reach * reach];
    const count = Math.min(this.nodes.length, firstOf(this.finest() + 1));
    for (let node = 0; node < count; node++) {
      const [px, py] = this.place(node);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [node, distance];
    }
    return best;
  }

  finest() {
    let level = this.depth;
    while (level > 6 && this.view.gap(level, this.depth) < 0.8) level--;
    return level;
  }

  resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!width || !height) return;
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.ratio = ratio;
    this.view.resize(width, height);
    this.draw(); // at once: a canvas that was resized is empty
  }

  wake() {
    if (this.awake) return;
    this.awake = true;
    requestAnimationFrame(() => {
      this.awake = false;
      this.draw();
    });
  }

  draw() {
    if (!this.nodes.length || !this.ratio) return;
    const begun = performance.now();
    this.settle(begun);
    const { pen, view } = this;
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, view.width, view.height);
    const finest = this.finest();
    this.ring();
    this.branches(finest);
    this.joints(finest);
    this.ways();
    this.labels(finest);
    if (!this.drawn) performance.mark("tree-drawn");
    this.drawn = performance.now() - begun;
  }

  settle(now) {
    if (this.to === this.mass || !this.poured) return;
    const t = calm.matches ? 1 : Math.min(1, (now - this.poured) / GLIDE);
    const eased = 1 - (1 - t) ** 3;
    this.mass = t === 1 ? this.to : this.from.map((value, node) => value + (this.to[node] - value) * eased);
    if (t < 1) this.wake();
  }

  ring() {
    const { pen, view } = this;
    pen.strokeStyle = this.line;
    pen.lineWidth = 1;
    pen.setLineDash([2, 5]);
    pen.beginPath();
    pen.arc(view.x, view.y, view.scale * radiusOf(this.level, this.depth), 0, 2 * Math.PI);
    pen.stroke();
    pen.setLineDash([]);
  }

  // Branches that carry alike are one path of one width, so that a thousand of them are some dozen strokes.
  branches(finest) {
    const { pen } = this;
    const bundles = new Map();
    for (let node = 1; node < firstOf(finest + 1); node++) {
      if (!this.seen(node)) continue;
      const key = this.bundle(node);
      if (!bundles.has(key)) bundles.set(key, []);
      bundles.get(key).push(node);
    }
    pen.lineCap = "round";
    for (const key of [...bundles.keys()].sort((a, b) => a - b)) {
      pen.strokeStyle = this.asked ? this.tones[key >> 8] : this.plain;
      pen.lineWidth = (key & 255) / 8;
      pen.beginPath();
      for (const node of bundles.get(key)) this.branch(node);
      pen.stroke();
    }
  }

  // Deep branches carry small parts of a query, so tone and width rise fast at first.
  bundle(node) {
    const tone = this.asked ? Math.min(TONES - 1, Math.round((TONES - 1) * this.mass[node] ** 0.4)) : 0;
    const flow = this.asked ? Math.max(this.mass[node], 0.1 * this.average[node]) : this.average[node];
    const near = Math.max(1, Math.sqrt(this.view.scale / this.view.whole));
    const width = Math.min(this.view.gap(levelOf(node), this.depth) * 0.8, 9 * Math.sqrt(flow) * near, 14);
    return (tone << 8) | Math.max(4, Math.min(255, Math.round(width * 8)));
  }

  branch(node) {
    const { pen, view, at } = this;
    const parent = parentOf(node);
    const [x0, y0] = this.place(parent);
    const [x1, y1] = this.place(node);
    const level = levelOf(node);
    const middle = (view.scale * (radiusOf(level, this.depth) + radiusOf(level - 1, this.depth))) / 2;
    const a = parent ? at.angle[parent] : at.angle[node];
    pen.moveTo(x0, y0);
    pen.bezierCurveTo(view.x + middle * Math.cos(a), view.y + middle * Math.sin(a),
      view.x + middle * Math.cos(at.angle[node]), view.y + middle * Math.sin(at.angle[node]), x1, y1);
  }

  seen(node) {
    const [x0, y0] = this.place(parentOf(node));
    const [x1, y1] = this.place(node);
    const { width, height } = this.view;
    const edge = 40;
    return Math.max(x0, x1) > -edge && Math.min(x0, x1) < width + edge && Math.max(y0, y1) > -edge && Math.min(y0, y1) < height + edge;
  }

  joints(finest) {
    const { pen, view } = this;
    pen.fillStyle = this.leaf;
    pen.globalAlpha = 0.75;
    pen.beginPath();
    for (let level = 0; level <= finest; level++) {
      if (level && view.gap(level, this.depth) < 7) break;
      const size = Math.max(1.4, 4 - 0.3 * level);
      for (let node = firstOf(level); node < firstOf(level + 1); node++) {
        const [x, y] = this.place(node);
        if (x < -9 || y < -9 || x > view.width + 9 || y > view.height + 9) continue;
        pen.moveTo(x + size, y);
        pen.arc(x, y, size, 0, 2 * Math.PI);
      }
    }
    pen.fill();
    pen.globalAlpha = 1;
  }

  // Draws the ends of the hits' paths, the path to the hit under the pointer, and the chosen node.
  ways() {
    const { pen } = this;
    this.trace(this.pointed && this.pointed.length ? this.pointed[this.pointed.length - 1] : null, 2.5);
    this.trace(this.chosen, 2.5);
    for (const node of this.hits) {
      const [x, y] = this.place(node);
      pen.beginPath();
      pen.arc(x, y, 4.5, 0, 2 * Math.PI);
      pen.fillStyle = this.flow;
      pen.strokeStyle = this.paper;
      pen.lineWidth = 1.5;
      pen.fill();
      pen.stroke();
    }
    if (this.chosen !== null) {
      const [x, y] = this.place(this.chosen);
      pen.beginPath();
      pen.arc(x, y, 8, 0, 2 * Math.PI);
      pen.strokeStyle = this.leaf;
      pen.lineWidth = 2.5;
      pen.stroke();
    }
  }

  trace(node, width) {
    if (node === null) return;
    const { pen } = this;
    pen.strokeStyle = this.leaf;
    pen.lineWidth = width;
    pen.beginPath();
    for (let at = node; at > 0; at = parentOf(at)) this.branch(at);
    pen.stroke();
  }

  // Labels nodes where there is room: the chosen node, then those with most of the query, upper levels first.
  labels(finest) {
    const { pen, view } = this;
    pen.font = `12px ${this.font}`;
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    pen.strokeStyle = this.paper;
    const taken = [];
    for (const node of this.worthy(finest)) {
      if (taken.length >= LABELS) break;
      const text = this.nodes[node].name || this.nodes[node].words.slice(0, 2).join(" · ");
      const [x, y] = this.place(node);
      if (!text || x < 0 || y < 0 || x > view.width || y > view.height) continue;
      const half = pen.measureText(text).width / 2 + 6;
      const middle = Math.min(view.width - half, Math.max(half, x));
      const box = [middle - half, y - 23, middle + half, y - 5];
      if (taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
      taken.push(box);
      pen.strokeText(text, middle, y - 14);
      pen.fillStyle = node === this.chosen ? this.leaf : this.ink;
      pen.fillText(text, middle, y - 14);
    }
  }

  worthy(finest) {
    const first = [this.chosen, ...(this.pointed || []).slice(-1)].filter((node) => node !== null && node !== undefined);
    const rest = [];
    for (let level = 1; level <= finest && this.view.gap(level, this.depth) > 26; level++) {
      const nodes = Array.from({ length: 2 ** level }, (_, i) => firstOf(level) + i);
      rest.push(...(this.asked ? nodes.sort((a, b) => this.mass[b] - this.mass[a]) : nodes));
    }
    return [...first, ...rest];
  }
}
