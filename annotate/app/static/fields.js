// Fields of the lead's own, which are components of Gradio: read and set here in the browser.
// One event of theirs (site/parts.py) has all of them as inputs and outputs. Gradio gathers their values for it and is about
// to ask the server; the answer is given here instead, so that neither reading nor setting them needs a connection.

const READ_WITHIN_MS = 1000;
const SET_WITHIN_MS = 500;

export class Fields {
  /** changed(): somebody has filled in something. */
  constructor(shared, { event, of = [] } = {}, changed) {
    this.of = of;
    this.changed = changed;
    this.values = {};
    this.wanted = null; // values to be set
    this.setting = 0; // until when changes are those of the values that are being set, one component after another
    this.readers = [];
    this.first = of.map(({ value }) => value ?? null);
    if (!of.length) return;
    this.ask = async () => {
      while (!of.every(({ place }) => document.getElementById(place))) await new Promise(requestAnimationFrame); // Gradio is still at it
      shared.dispatcher(of[0].id, "change", null);
    };
    const { client } = shared;
    const submit = client.submit.bind(client);
    client.submit = (number, ...rest) => (number === event ? this._answer(rest[0]) : submit(number, ...rest));
  }

  /** Set the fields to what a draft or an earlier answer says, or back to what they were at first. */
  show(given) {
    if (!this.of.length) return;
    const wanted = this.of.map(({ name, value }) => given?.[name] ?? value ?? null);
    const isThere = JSON.stringify(this.first) === JSON.stringify(wanted); // what is filled in before Gradio gets to it would be lost
    this.first = null;
    this._take(wanted);
    if (isThere) return;
    this.wanted = wanted;
    this.setting = Infinity;
    this.ask().then(() => { this.setting = performance.now() + SET_WITHIN_MS; });
  }

  /** What the fields say at this moment. */
  async read() {
    if (!this.of.length) return {};
    await new Promise((resolve) => {
      this.readers.push(resolve);
      setTimeout(resolve, READ_WITHIN_MS);
      this.ask();
    });
    return this.values;
  }

  /** The label of the first field that has to be filled in and is not, or null. */
  missing() {
    const empty = (value) => value === undefined || value === null || value.length === 0 || (typeof value === "string" && !value.trim());
    return this.of.find(({ name, required }) => required && empty(this.values[name]))?.label ?? null;
  }

  /** What Gradio takes for the server's answer to the event: the values to be set, or nothing new. */
  async *_answer(data) {
    if (this.wanted) {
      const wanted = this.wanted;
      this.wanted = null;
      yield { type: "data", data: wanted };
    } else this._hear(data);
    yield { type: "status", stage: "complete" };
  }

  _hear(data) {
    const before = JSON.stringify(this.values);
    if (performance.now() < this.setting) {
      if (JSON.stringify(this._named(data)) === before) this.setting = 0;
    } else if (this._take(data)) this.changed();
    for (const read of this.readers.splice(0)) read();
  }

  _named(data) {
    return Object.fromEntries(this.of.map(({ name }, i) => [name, data[i]]).filter(([, value]) => value !== null && value !== undefined));
  }

  _take(data) {
    const values = this._named(data);
    const differs = JSON.stringify(values) !== JSON.stringify(this.values);
    this.values = values;
    return differs;
  }
}

/** Fields of an answer in one line: "domain: code · sure: true". */
export const fieldsText = (fields) => Object.entries(fields ?? {}).map(([name, value]) => `${name}: ${[value].flat().join(", ")}`).join(" · ");
