// A question on its way: the server's events, one by one, until the stream ends or is stopped.

import { boot } from "../boot.js";
import { Refused } from "../api.js";

/** POST `body` and hear every server-sent event as an object. Throws Refused; status 0 where the line broke. */
export async function ask(path, body, heard, signal) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      credentials: "same-origin",
      headers: { "X-CSRF-Token": boot.csrf, "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (signal.aborted) return;
    throw new Refused(0, String(error));
  }
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    throw new Refused(response.status, content.detail ?? response.statusText);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) if (event.startsWith("data: ")) heard(JSON.parse(event.slice(6)));
    }
  } catch (error) {
    if (!signal.aborted) throw new Refused(0, String(error));
  }
}

export const newId = () => crypto.randomUUID?.().replaceAll("-", "") ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
