// Positions of the nodes: the root in the middle, every level a circle around it, as in a tree seen from above.

export const levelOf = (node) => 31 - Math.clz32(node + 1);
export const firstOf = (level) => 2 ** level - 1;
export const parentOf = (node) => (node - 1) >> 1;

// How far a level's circle is from the root, in [0, 1]: the outer levels, which have the most nodes, get more room.
export const radiusOf = (level, depth) => (depth ? Math.pow(level / depth, 0.86) : 0);

export function positions(depth) {
  const count = firstOf(depth + 1);
  const [x, y, angle] = [new Float32Array(count), new Float32Array(count), new Float32Array(count)];
  for (let node = 1; node < count; node++) {
    const level = levelOf(node);
    angle[node] = (2 * Math.PI * (node - firstOf(level) + 0.5)) / 2 ** level + Math.PI / 2;
    x[node] = radiusOf(level, depth) * Math.cos(angle[node]);
    y[node] = radiusOf(level, depth) * Math.sin(angle[node]);
  }
  return { x, y, angle };
}

// The visible part of the tree: `scale` pixels a unit, and the position of the root.
export class View {
  constructor() {
    Object.assign(this, { scale: 1, x: 0, y: 0, width: 1, height: 1, whole: 1 });
  }

  resize(width, height) {
    const untouched = this.width === 1 || this.scale === this.whole;
    const [dx, dy] = [(width - this.width) / 2, (height - this.height) / 2];
    Object.assign(this, { width, height, whole: Math.max(40, Math.min(width, height) / 2 - 34) });
    if (untouched) this.all();
    else Object.assign(this, { x: this.x + dx, y: this.y + dy });
  }

  all() {
    Object.assign(this, { scale: this.whole, x: this.width / 2, y: this.height / 2 });
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const scale = Math.min(60 * this.whole, Math.max(0.6 * this.whole, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
  }

  pan(dx, dy) {
    const reach = this.scale + 40;
    this.x = Math.min(this.width + reach, Math.max(-reach, this.x + dx));
    this.y = Math.min(this.height + reach, Math.max(-reach, this.y + dy));
  }

  // Pixels between neighbours of a level.
  gap(level, depth) {
    return (2 * Math.PI * this.scale * radiusOf(level, depth)) / 2 ** level;
  }
}
