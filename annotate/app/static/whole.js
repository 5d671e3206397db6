// Where the whole of a text is that the page shows folded: on the server, which sends it on request.

import { call } from "./api.js";

/** A task as the server sent it, with the way to its whole texts. */
export function served(task) {
  const at = `/api/tasks/${task.id}`;
  const raw = async (path) => (await call("GET", path)).raw;
  return {
    ...task,
    whole: {
      answer: (i) => raw(`${at}/answers/${i}/text`),
      turn: (i) => raw(`${at}/prompt/${i}/text`),
      source: async (i) => (await fetch(`${at}/answers/${i}/source`, { credentials: "same-origin" })).text(),
    },
  };
}
