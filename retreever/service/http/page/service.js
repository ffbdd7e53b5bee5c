// Calls to the service. One search runs at a time; of those typed meanwhile only the last is sent.

async function read(path, options) {
  const reply = await fetch(path, options);
  if (reply.ok) return reply.json();
  const said = await reply.json().catch(() => null);
  const fault = new Error(spoken(said) || `the service answered ${reply.status}`);
  fault.status = reply.status;
  fault.wait = Math.min(5, Number(reply.headers.get("retry-after")) || 1);
  throw fault;
}

function spoken(said) {
  const detail = said && said.detail;
  if (typeof detail === "string") return detail;
  if (!Array.isArray(detail) || !detail.length) return "";
  const [first] = detail;
  return `${(first.loc || []).slice(1).join(".")} ${first.msg || ""}`.trim();
}

export const tree = () => read("v1/tree");
export const model = () => read("v1/model");

let known = new Map();

export function node(id) {
  if (!known.has(id)) known.set(id, read(`v1/nodes/${id}`).catch((fault) => { known.delete(id); throw fault; }));
  return known.get(id);
}

export function forget() {
  known = new Map();
}

export class Searches {
  // `show` gets (answer, asked), `fail` gets an Error.
  constructor(show, fail) {
    this.show = show;
    this.fail = fail;
    this.next = null;
    this.busy = false;
  }

  ask(asked) {
    this.next = asked;
    if (!this.busy) this.run();
  }

  cancel() {
    this.next = null;
    this.cancelled = this.busy;
  }

  async run() {
    this.busy = true;
    while (this.next) {
      const asked = this.next;
      this.next = null;
      this.cancelled = false;
      try {
        const answer = await read("v1/search", {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ ...asked, explain: true }),
        });
        if (!this.cancelled) this.show(answer, asked);
      } catch (fault) {
        if (fault.status === 429 && !this.next && !this.cancelled) {
          await new Promise((done) => setTimeout(done, fault.wait * 1000));
          this.next = this.next || (this.cancelled ? null : asked);
        } else if (!this.cancelled) this.fail(fault);
      }
    }
    this.busy = false;
  }
}
