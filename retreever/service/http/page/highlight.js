// Marks the query's words in a text, and finds the part of a long text that holds most of them.

const WORD = /[\p{L}\p{N}_]+/gu;
const COMMON = new Set(("a an and are as at be by can do for from get has have how i if in into is it its my not of on or so " +
  "that the their there this to up use was what when where which who why with you your").split(" "));

export function words(query) {
  const found = (query.toLowerCase().match(WORD) || []);
  const telling = found.filter((word) => !COMMON.has(word));
  return new Set(telling.length ? telling : found);
}

function belongs(word, wanted) {
  if (wanted.has(word)) return true;
  for (const other of wanted) {
    const [long, short] = word.length > other.length ? [word, other] : [other, word];
    if (short.length >= 4 && long.length - short.length <= 3 && long.startsWith(short)) return true;
  }
  return false;
}

function places(text, wanted) {
  const found = [];
  for (const match of text.matchAll(WORD)) {
    if (belongs(match[0].toLowerCase(), wanted)) found.push([match.index, match.index + match[0].length]);
  }
  return found;
}

// The text, or its part of `length` characters with most of the words, as nodes: plain text and <mark>.
export function marked(text, wanted, length = Infinity) {
  const [start, end] = text.length > length ? window_of(text, wanted, length) : [0, text.length];
  const nodes = start ? [document.createTextNode("… ")] : [];
  let at = start;
  for (const [from, to] of places(text.slice(start, end), wanted)) {
    nodes.push(document.createTextNode(text.slice(at, start + from)));
    const mark = document.createElement("mark");
    mark.textContent = text.slice(start + from, start + to);
    nodes.push(mark);
    at = start + to;
  }
  nodes.push(document.createTextNode(text.slice(at, end) + (end < text.length ? " …" : "")));
  return nodes;
}

function window_of(text, wanted, length) {
  const found = places(text.slice(0, 20000), wanted);
  let best = 0, most = 0;
  for (let first = 0, last = 0; first < found.length; first++) {
    while (last < found.length && found[last][1] <= found[first][0] + length - 60) last++;
    if (last - first > most) [best, most] = [found[first][0], last - first];
  }
  let start = best < length / 3 ? 0 : best - 40;
  if (start > 0) start = Math.max(0, text.lastIndexOf(" ", start) + 1);
  return [start, Math.min(text.length, start + length)];
}
