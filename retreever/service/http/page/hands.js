// Mouse, touch and keyboard control of the tree.

import { firstOf, levelOf, parentOf } from "./geometry.js";

const STILL = 5; // pixels that a press may wander and still be a click

// `choose` gets a node, or null.
export function handle(tree, choose) {
  const { canvas, view } = tree;
  const fingers = new Map();
  let wandered = 0;

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0016)), ...at(event));
    tree.wake();
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (!fingers.size) wandered = 0;
    fingers.set(event.pointerId, at(event));
    canvas.classList.add("held");
  });

  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    const now = at(event);
    if (!before) {
      canvas.classList.toggle("over", tree.nearest(...now) !== null);
      return;
    }
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    wandered += Math.hypot(dx, dy);
    if (fingers.size === 1 && wandered > STILL) view.pan(dx, dy);
    if (fingers.size === 2) pinch(event.pointerId, before, now);
    fingers.set(event.pointerId, now);
    tree.wake();
  });

  function pinch(id, before, now) {
    const other = [...fingers].find(([finger]) => finger !== id)[1];
    const apart = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
    view.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    view.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    wandered = Infinity;
  }

  const lift = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (!fingers.size) canvas.classList.remove("held");
    if (event.type === "pointerup" && !fingers.size && wandered <= STILL) {
      choose(tree.nearest(...at(event), event.pointerType === "touch" ? 28 : 18));
    }
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);

  canvas.addEventListener("dblclick", (event) => {
    view.zoom(2.2, ...at(event));
    tree.wake();
  });

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !tree.nodes.length) return;
    const step = stepped(tree, event.key);
    if (step !== undefined) choose(step);
    else if (event.key === "+" || event.key === "=") tree.zoom(1.5);
    else if (event.key === "-") tree.zoom(1 / 1.5);
    else if (event.key === "0") view.all();
    else return;
    event.preventDefault();
    tree.wake();
  });
}

function stepped(tree, key) {
  const node = tree.chosen;
  if (key === "Escape") return null;
  if (!["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"].includes(key)) return undefined;
  if (node === null) return 0;
  const level = levelOf(node);
  const wrapped = (by) => firstOf(level) + ((node - firstOf(level) + by + 2 ** level) % 2 ** level);
  if (key === "ArrowUp") return node ? parentOf(node) : 0;
  if (key === "ArrowLeft") return wrapped(-1);
  if (key === "ArrowRight") return wrapped(1);
  if (level === tree.depth) return node;
  const [left, right] = [2 * node + 1, 2 * node + 2];
  return tree.mass[right] > tree.mass[left] ? right : left; // the way most of the query goes
}
