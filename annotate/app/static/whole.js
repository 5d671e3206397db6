// Where the whole of a text is that the page shows folded: on the server, which sends it on request.

import { call } from "./api.js";
import { at } from "./boot.js";

/** A task as the server sent it, with the way to its whole texts. */
export function served(task) {
  const place = `/api/tasks/${task.id}`;
  const raw = async (path) => (await call("GET", path)).raw;
  return {
    ...task,
    whole: {
      answer: (i) => raw(`${place}/answers/${i}/text`),
      turn: (i) => raw(`${place}/prompt/${i}/text`),
      source: async (i) => (await fetch(at(`${place}/answers/${i}/source`), { credentials: "same-origin" })).text(),
    },
  };
}
