// An answer on its way: the server's events, one by one, until the stream ends or the page leaves it.

import { at, boot } from "../boot.js";
import { Refused } from "../api.js";

/** POST `body` and hear every server-sent event as an object. Throws Refused; status 0 where the line broke. */
export async function ask(path, body, heard, signal) {
  const headers = { "X-CSRF-Token": boot.csrf, "Content-Type": "application/json" };
  await listen(path, { method: "POST", headers, body: JSON.stringify(body) }, heard, signal);
}

/** Hear the answer that is under way already, from its first event on; false where there is none. */
export const join = (path, heard, signal) => listen(path, { method: "GET" }, heard, signal);

async function listen(path, request, heard, signal) {
  let response;
  try {
    response = await fetch(at(path), { credentials: "same-origin", signal, ...request });
  } catch (error) {
    if (signal.aborted) return false;
    throw new Refused(0, String(error));
  }
  if (response.status === 204) return false;
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    throw new Refused(response.status, content.detail ?? response.statusText);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return true;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) if (event.startsWith("data: ")) heard(JSON.parse(event.slice(6)));
    }
  } catch (error) {
    if (!signal.aborted) throw new Refused(0, String(error));
  }
  return true;
}

export const newId = () => crypto.randomUUID?.().replaceAll("-", "") ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
