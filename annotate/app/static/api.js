// Requests to the server. An answer is kept in this browser until the server has said that it is on disk.

import { at, boot } from "./boot.js";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
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

const key = (clientId) => `rlhf-unsent:${boot.user}:${clientId}`;

/** Submit an answer until the server has it. `report(error)` hears of every failed try, `report(null)` of the end. */
export async function submitSurely(path, answer, report) {
  remember(answer.client_id, { path, answer });
  for (let wait = 1000; ; wait = Math.min(wait * 2, 15_000)) {
    try {
      const stored = await call("POST", path, answer);
      forget(answer.client_id);
      report(null);
      return stored;
    } catch (error) {
      if (!(error instanceof Refused) || !error.passing) {
        if (![401, 403].includes(error.status)) forget(answer.client_id); // after signing in again it is sent
        throw error;
      }
      report(error);
      await pause(wait);
    }
  }
}

const unsent = () => Object.keys(localStorage).filter((name) => name.startsWith(key("")));

/** Whether this browser holds answers that it could not deliver before it was closed. */
export const isUnsent = () => unsent().length > 0;

/** Send them now. */
export async function deliverUnsent(report) {
  for (const name of unsent()) {
    const { path, answer } = JSON.parse(localStorage.getItem(name));
    await submitSurely(path, answer, report).catch(() => null);
  }
}

function remember(clientId, value) {
  try {
    localStorage.setItem(key(clientId), JSON.stringify(value));
  } catch {
    // a full or forbidden storage: the page itself still holds the answer and goes on trying
  }
}

function forget(clientId) {
  localStorage.removeItem(key(clientId));
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
