// What fills the parts of a labeling page. Gradio places them; `rlhfParts` is where they find what they hold.

import { batchChoice } from "./batch.js";
import { find } from "./board/dom.js";
import { boot, t } from "./boot.js";
import { guidelines } from "./dialogs.js";
import { header } from "./header.js";
import { history } from "./history.js";
import { layout } from "./layout.js";
import { progress } from "./progress.js";
import { say } from "./status.js";
import { tasks } from "./tasks.js";
import { Work } from "./work.js";

const query = new URLSearchParams(location.search);
const [batch, editing] = [query.get("batch"), query.get("answer")];

header();
layout();

// Gradio follows the system's theme; here the reader's choice counts.
const { body, documentElement: root } = document;
const agree = () => { if (body.classList.contains("dark") !== (root.dataset.theme === "dark")) body.classList.toggle("dark"); };
new MutationObserver(agree).observe(body, { attributeFilter: ["class"] });
new MutationObserver(agree).observe(root, { attributeFilter: ["data-theme"] });
agree();

const work = boot.page === "label" ? new Work(batch, editing) : null;
find("#guidelines")?.addEventListener("click", () => guidelines(work.batch ?? work.task?.batch));

const failed = (error) => say(error.status === 401 ? t("error.signed_out") : t("error.refused", { reason: error.message }));
const part = (show) => (place) => Promise.resolve(show(place)).catch(failed);

globalThis.rlhfParts = {
  work: part((place) => work.begin(place)),
  batch: part((place) => batchChoice.show(place)),
  progress: part((place) => progress.show(place)),
  tasks: part(tasks),
  history: part(history),
};
