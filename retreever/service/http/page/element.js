// Elements from untrusted text: it is only ever set as text.

export function element(name, settings = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(settings)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined).map(part));
  return made;
}

const part = (child) => (child instanceof Node ? child : document.createTextNode(String(child)));

export const calm = matchMedia("(prefers-reduced-motion: reduce)");

// What a node is called, or so many of its words.
export const label = (node, words) => node.name || node.words.slice(0, words).join(" ");

const counts = new Intl.NumberFormat("en");
export const count = (value) => counts.format(Math.round(value));
export const share = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
