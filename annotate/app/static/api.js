// Requests to the server. An answer is kept in this browser until the server has said that it is on disk.

import { at, boot, own } from "./boot.js";
import { report } from "./status.js";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Of the session and not of what was sent: after signing in again it is sent. */
  get signedOut() {
    return this.status === 401 || this.status === 403;
  }

  /** Worth trying again: nobody answered, or the server could not write. */
  get passing() {
    return this.status === 0 || this.status >= 500 || this.status === 429;
  }
}

const TIMEOUT_MS = 20_000;

/** JSON from the server. Throws Refused: status 0 where no answer came. */
export async function call(method, path, body = undefined, { keepalive = false } = {}) {
  let response;
  try {
    response = await fetch(at(path), {
      method,
      keepalive,
      credentials: "same-origin",
      headers: { "X-CSRF-Token": boot.csrf, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch (error) {
    throw new Refused(0, String(error));
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, content.detail ?? response.statusText);
  return content;
}

const UNSENT = own("unsent");

/** The name under which this browser keeps an answer until the server has it. */
export const nameOf = ({ client_id }) => UNSENT + client_id;

/** Submit an answer until the server has it; every failed try is told on the page, and the end.
 *  What is refused stays in this browser with `typed`, what its page shows it by, until it is sent otherwise or thrown away. */
export async function submitSurely(path, answer, typed) {
  const name = nameOf(answer);
  remember(name, { path, answer, typed });
  for (let wait = 1000; ; wait = Math.min(wait * 2, 15_000)) {
    try {
      const stored = await call("POST", path, answer);
      forget(name);
      report(null);
      return stored;
    } catch (error) {
      if (!(error instanceof Refused) || !error.passing) {
        if (answer.kind === "skip" && !error.signedOut) forget(name);
        throw error;
      }
      report(error);
      await pause(wait);
    }
  }
}

/** Answers that this browser could not deliver before it was closed, of those that go to paths below one. */
const unsent = (below) =>
  Object.keys(localStorage)
    .filter((name) => name.startsWith(UNSENT))
    .map((name) => ({ name, ...JSON.parse(localStorage.getItem(name)) }))
    .filter(({ path }) => path.startsWith(below));

export const isUnsent = (below) => unsent(below).length > 0;

/** Send them now; returns those that were refused, each with its error. They stay in this browser. */
export async function deliverUnsent(below) {
  const refused = [];
  for (const kept of unsent(below)) {
    try {
      await submitSurely(kept.path, kept.answer, kept.typed);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (!error.signedOut && kept.answer.kind !== "skip") refused.push({ ...kept, error });
    }
  }
  return refused;
}

function remember(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // a full or forbidden storage: the page itself still holds the answer and goes on trying
  }
}

/** Keep an answer no longer. */
export function forget(name) {
  localStorage.removeItem(name);
}

/** Waits, but no longer than until the network is back or the page is shown again. */
function pause(milliseconds) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    window.addEventListener("online", done);
  });
}
