// What fills the parts of a labeling page.

import { batchChoice } from "./batch.js";
import { find } from "./board/dom.js";
import { boot } from "./boot.js";
import { guidelines } from "./dialogs.js";
import { followTheme, header } from "./header.js";
import { history } from "./history.js";
import { layout } from "./layout.js";
import { offer } from "./parts.js";
import { progress } from "./progress.js";
import { tasks } from "./tasks.js";
import { Work } from "./work.js";

const query = new URLSearchParams(location.search);
const [batch, editing] = [query.get("batch"), query.get("answer")];

header();
layout();
followTheme();

const work = boot.page === "label" ? new Work(batch, editing) : null;
find("#guidelines")?.addEventListener("click", () => guidelines(work.batch ?? work.task?.batch));

offer({
  work: (place) => work.begin(place),
  batch: (place) => batchChoice.show(place),
  progress: (place) => progress.show(place),
  tasks,
  history,
});
