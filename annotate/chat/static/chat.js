// The chat page: a conversation, its branches, and the feedback on its answers.

import { call, Refused } from "../api.js";
import { at, boot, t } from "../boot.js";
import { help } from "../dialogs.js";
import { find, h } from "../board/dom.js";
import { keys } from "../keys.js";
import { say, toast, told, whatFailed } from "../status.js";
import { header } from "../header.js";
import { hood } from "./hood.js";
import { Marks } from "./marks.js";
import { Settings, takenOver } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { ask, join, newId } from "./stream.js";
import { Tree, samePrompt } from "./tree.js";
import { Growing, answer, question } from "./turn.js";

const REJOIN_MS = 1000;

class Chat {
  constructor(main, server) {
    this.server = server;
    this.thread = h("div", { id: "thread", role: "log", "aria-live": "off", tabindex: "-1" });
    this.field = h("textarea", { id: "say", rows: 1, "aria-label": t("chat.say"), placeholder: t("chat.say_here"), title: t("chat.say_keys"), oninput: () => this.fit(), onkeydown: (event) => this.typed(event) });
    this.button = h("button", { type: "button", id: "send", class: "primary", onclick: () => (this.watching ? this.stop() : this.send()) });
    this.top = h("div", { class: "top" });
    this.foot = h("div", { class: "composer" });
    this.spoken = h("p", { class: "hidden-text", role: "status" });
    main.replaceChildren(this.top, this.thread, this.foot, this.spoken);
    this.sidebar = new Sidebar(find("#list"), { open: (id) => this.go(id), begin: () => this.go(null), wrong: (error) => this.wrong(error) });
    this.busy(null);
  }

  // Opening

  async go(id, push = true) {
    this.leave();
    this.drawer(false);
    if (push) history.pushState(null, "", at(id ? `/chat/${id}` : "/chat"));
    this.opening = this.open(id);
    await this.opening;
    if (window.matchMedia("(pointer: fine)").matches) this.field.focus(); // on a phone that would open its keyboard
  }

  /** Until the conversation is there, the one that is still shown takes nothing; of several openings the last counts. */
  async open(id) {
    const opened = {};
    this.opened = opened;
    this.usable(false);
    say(null);
    try {
      const list = await this.sidebar.refresh();
      const found = id ? await call("GET", `/api/chat/conversations/${id}`) : { messages: [], marks: [] };
      if (this.opened === opened) this.present(id, found, list[0]);
    } catch (error) {
      if (this.opened === opened) this.wrong(error);
    }
  }

  present(id, found, latest) {
    this.id = id;
    this.tree = new Tree(found.messages);
    this.marks = new Marks(found.marks);
    const kept = id ? found.settings : takenOver(latest, this.server.defaults);
    this.settings = new Settings(kept, this.server, () => this.keepSettings());
    this.sidebar.mark(id);
    this.frame();
    this.draw(true);
    this.usable(true);
    if (id) this.join();
  }

  usable(isUsable) {
    this.isUsable = isUsable;
    for (const part of [this.top, this.thread]) part.inert = !isUsable;
  }

  /** Go on with the answer that was being written when the page was left. */
  async join() {
    const joining = new AbortController();
    this.joining = joining;
    let growing = null;
    const heard = (event) => {
      if (growing) return this.heard(event, growing);
      this.busy(joining);
      this.tree.add(event.message);
      this.tree.leaf = event.message.id;
      growing = this.sides(event.models);
      this.grow(null, growing);
    };
    try {
      const found = await join(`/api/chat/conversations/${this.id}/answer`, heard, joining.signal);
      if (joining.signal.aborted) return;
      if (growing) await this.ended(growing);
      else if (!found && this.tree.turns.get(this.tree.leaf)?.role === "user") await this.reread(); // it ended while the page was loading
    } catch (error) {
      this.broke(error);
    } finally {
      if (this.watching === joining) this.busy(null);
    }
  }

  frame() {
    this.top.replaceChildren(this.settings.bar);
    if (this.id) this.top.append(this.menu());
    this.foot.replaceChildren(this.settings.panel, h("div", { class: "line" }, this.field, this.button));
  }

  menu() {
    return h("details", { class: "menu" },
      h("summary", { class: "button", id: "own" }, t("chat.conversation"), " ▾"),
      h("div", { class: "menu-body" },
        h("button", { type: "button", id: "rename", onclick: () => this.rename() }, t("chat.rename")),
        h("a", { class: "button", id: "export", href: at(`/api/chat/conversations/${this.id}/export`), download: "" }, t("chat.export")),
        h("button", { type: "button", id: "delete", onclick: () => this.remove() }, t("chat.delete"))));
  }

  /** Make the conversation with its first question, unless it is left meanwhile. */
  async begun(signal) {
    if (this.id) return;
    const { id } = await call("POST", "/api/chat/conversations", { settings: this.settings.value });
    if (signal.aborted) return;
    this.id = id;
    history.replaceState(null, "", at(`/chat/${id}`));
    this.sidebar.current = id;
    this.frame();
  }

  keepSettings() {
    if (this.id) call("PUT", `/api/chat/conversations/${this.id}/settings`, { settings: this.settings.value }).catch((error) => this.wrong(error));
  }

  async rename() {
    const title = window.prompt(t("chat.rename_ask"), find("#list [aria-current] .name")?.textContent ?? "");
    if (!title?.trim()) return;
    await this.surely("PATCH", "", { title: title.trim().slice(0, 200) });
    await this.sidebar.refresh();
  }

  async remove() {
    if (!window.confirm(t("chat.delete_ask"))) return;
    if (await this.surely("DELETE", "")) await this.go(null);
  }

  // Drawing

  draw(toEnd = false) {
    const path = this.tree.path();
    if (!path.length) return this.thread.replaceChildren(this.welcome());
    const items = path.map((turn, i) => (turn.role === "user" ? question(turn, this) : this.answered(turn, i === path.length - 1))).flat();
    this.thread.replaceChildren(...items);
    if (toEnd) this.thread.scrollTop = this.thread.scrollHeight;
  }

  /** The answer of a question: alone, or while it is the last one beside the one it was compared with. */
  answered(turn, isLast) {
    const pair = isLast ? this.tree.pair(turn) : null;
    if (!pair) return [answer(turn, this), isLast ? this.preference(turn) : null].filter(Boolean);
    const given = this.marks.compared(...pair.map((one) => one.id));
    const choice = samePrompt(...pair) ? this.choice(pair, given) : h("p", { class: "quiet" }, t("chat.different_prompts"));
    return [h("div", { class: "pair" }, ...pair.map((one, i) => answer(one, this, "AB"[i]))), choice];
  }

  choice(pair, given) {
    const verdicts = [["a", "a_better", "1"], ["tie", "tie", "0"], ["both_bad", "both_bad", "X"], ["b", "b_better", "2"]];
    return h("div", { class: "choice", role: "group", "aria-label": t("chat.choose") }, given ? null : h("p", {}, t("chat.choose")),
      h("div", { class: "verdict" }, ...verdicts.map(([verdict, text, key]) => h("button", { type: "button", "data-verdict": verdict, "aria-pressed": String(given?.verdict === verdict), onclick: () => this.choose(pair, verdict) }, t(`chat.${text}`), " ", h("kbd", {}, key)))));
  }

  /** After "again": is the new answer better than the one before it? */
  preference(turn) {
    const earlier = this.tree.siblings(turn).filter((other) => other.id < turn.id && other.content).at(-1);
    if (!earlier || turn.pair || earlier.pair || !turn.content || !samePrompt(turn, earlier)) return null;
    const given = this.marks.compared(turn.id, earlier.id);
    const verdict = (name, key) => h("button", { type: "button", "data-verdict": name, "aria-pressed": String(given?.verdict === name), onclick: () => this.compare(turn, earlier, name) }, t(`chat.${key}`));
    return h("div", { class: "choice small", role: "group", "aria-label": t("chat.prefer") }, h("span", { class: "quiet" }, t("chat.prefer")), verdict("a", "better"), verdict("tie", "same"), verdict("b", "worse"));
  }

  welcome() {
    if (!this.server.models.length) return h("p", { class: "nothing" }, t("chat.no_models"));
    const model = this.server.models.find((one) => one.name === this.settings.value.model_a);
    const tries = (model?.suggestions ?? []).map((text) => h("button", { type: "button", onclick: () => this.ask(text, null) }, text));
    return h("div", { class: "nothing welcome" }, h("h1", {}, t("chat.begin")), tries.length ? h("p", { class: "quiet" }, t("chat.knows")) : null, h("div", { class: "tries" }, ...tries));
  }

  show(turn) {
    this.tree.show(turn);
    this.draw();
    find(`[data-turn="${turn.id}"]`, this.thread)?.scrollIntoView({ block: "nearest" });
  }

  // Asking

  typed(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.send();
    } else if (event.key === "Escape") {
      if (this.watching) this.stop();
      else this.field.blur();
    }
  }

  fit() {
    this.field.rows = Math.min(8, this.field.value.split("\n").length);
  }

  async send() {
    await this.opening;
    const text = this.field.value;
    if (!this.isUsable || !text.trim() || this.watching || !this.server.models.length) return;
    this.field.value = "";
    this.fit();
    const leaf = this.tree.turns.get(this.tree.leaf); // a question that got no answer is replaced, not continued
    this.ask(text, leaf?.role === "user" ? leaf.parent : this.tree.leaf);
  }

  /** What was not stored stands in the field again. */
  refill(content) {
    this.field.value = content;
    this.fit();
  }

  again(turn) {
    this.ask(null, turn.parent);
  }

  /** Ask `content` after `parent`, or without content answer the question `parent` once more. */
  async ask(content, parent) {
    if (this.watching || !this.isUsable) return;
    const watching = new AbortController();
    this.joining?.abort();
    this.busy(watching);
    let growing = [];
    try {
      await this.begun(watching.signal);
      if (watching.signal.aborted) return content === null || this.field.value ? null : this.refill(content);
      const again = content === null ? this.tree.children(parent).length : 0;
      const sides = this.settings.sides(again);
      const blind = this.settings.value.blind && sides.length === 2;
      const body = { client_id: newId(), content, parent, system: this.settings.value.system, sides, blind };
      growing = this.sides(sides.map((side) => (blind ? "" : side.model)));
      this.tree.leaf = parent;
      this.grow(content, growing);
      await ask(`/api/chat/conversations/${this.id}/ask`, body, (event) => this.heard(event, growing), watching.signal);
      if (watching.signal.aborted) return;
      await this.ended(growing);
      this.asked = performance.now();
    } catch (error) {
      this.broke(error);
      const isRead = this.id && await this.reread().then(() => true, () => false);
      if (!isRead) for (const one of growing) one.breakOff();
      if (content !== null && !this.field.value && !this.tree.children(parent).some((turn) => turn.content === content)) this.refill(content);
      if (this.id && error.status === 0) setTimeout(() => this.watching || this.join(), REJOIN_MS); // the line broke, the answer goes on
    } finally {
      if (this.watching === watching) this.busy(null);
      this.follow(true);
      this.sidebar.refresh().catch(() => null);
    }
  }

  /** Cards for answers that are being written. models: by side, empty where it is not told yet. */
  sides(models) {
    return models.map((model, i) => new Growing(models.length === 2 ? "AB"[i] : null, model || t("chat.hidden_model")));
  }

  async ended(growing) {
    const pair = this.tree.pair(this.tree.turns.get(this.tree.leaf));
    if (growing.some((one) => !one.done && !one.failed) || (pair && !samePrompt(...pair))) await this.reread(); // whose these are is told now
    else if (!growing.some((one) => one.failed)) this.draw();
    const stopped = this.tree.turns.get(this.tree.leaf)?.sampling.reason === "cancelled";
    this.spoken.textContent = t(stopped ? "chat.stopped" : "chat.finished");
  }

  grow(content, growing) {
    this.draw();
    if (content !== null) {
      if (!this.tree.path().length) this.thread.replaceChildren();
      this.thread.append(h("article", { class: "turn user" }, h("span", { class: "role" }, t("chat.you")), h("div", { class: "text plain", dir: "auto" }, content)));
    }
    const cards = growing.map((one) => one.element);
    this.thread.append(cards.length === 2 ? h("div", { class: "pair" }, ...cards) : cards[0]);
    this.thread.scrollTop = this.thread.scrollHeight;
  }

  heard(event, growing) {
    const atEnd = this.thread.scrollHeight - this.thread.scrollTop - this.thread.clientHeight < 80;
    if (event.type === "question") {
      this.tree.add(event.message);
      this.tree.leaf = event.message.id;
      if (this.tree.path().length === 1) this.entitle(event.message.content);
    } else {
      const one = growing[event.side];
      one.hear(event);
      one.failed ||= event.type === "failed";
      if (event.type === "answer") {
        one.done = true;
        this.tree.add(event.message);
        if (event.side === 0 || growing.length === 1) this.tree.leaf = event.message.id;
      }
    }
    this.follow(atEnd);
  }

  follow(atEnd) {
    if (atEnd) this.thread.scrollTop = this.thread.scrollHeight;
  }

  async reread() {
    const found = await call("GET", `/api/chat/conversations/${this.id}`);
    this.tree = new Tree(found.messages);
    this.marks = new Marks(found.marks);
    this.draw();
  }

  /** End the answer; what there is of it comes as the answer. */
  stop() {
    if (this.watching && this.id) call("POST", `/api/chat/conversations/${this.id}/stop`).catch((error) => this.wrong(error));
  }

  /** Watch no longer; the answer goes on. */
  leave() {
    this.joining?.abort();
    this.watching?.abort();
    this.busy(null);
    for (const card of this.thread.querySelectorAll(".growing")) card.remove();
  }

  busy(watching) {
    this.watching = watching;
    this.button.replaceChildren(t(watching ? "chat.stop" : "chat.send"));
    this.button.classList.toggle("stop", Boolean(watching));
  }

  async entitle(content) {
    await call("PATCH", `/api/chat/conversations/${this.id}`, { title: content.trim().split("\n")[0].slice(0, 80) }).catch(() => null);
  }

  // Feedback

  async thumb(turn, up) {
    const verdict = up ? "up" : "down";
    const given = this.marks.rate(turn.id);
    if (given?.verdict === verdict) return;
    const stored = await this.surely("POST", "/thumb", { client_id: newId(), message: turn.id, up, replaces: given?.annotation });
    if (stored) this.keepMark({ kind: "rate", verdict, answers: [turn.id], annotation: stored.annotation }, "chat.thanks");
  }

  async rewrite(turn, text) {
    const given = this.marks.rewrite(turn.id);
    const stored = await this.surely("POST", "/rewrite", { client_id: newId(), message: turn.id, text, replaces: given?.annotation });
    if (stored) this.keepMark({ kind: "demonstrate", text, answers: [turn.id], annotation: stored.annotation }, "chat.thanks_demonstration");
  }

  async choose(pair, verdict) {
    await this.compare(pair[0], pair[1], verdict);
    this.tree.show(verdict === "b" ? pair[1] : pair[0]);
    this.draw();
  }

  async compare(a, b, verdict) {
    const given = this.marks.compared(a.id, b.id);
    if (given?.verdict === verdict) return;
    const body = { client_id: newId(), a: a.id, b: b.id, verdict, time_s: (performance.now() - (this.asked ?? performance.now())) / 1000, replaces: given?.annotation };
    const stored = await this.surely("POST", "/compare", body);
    if (!stored) return;
    for (const message of stored.messages) this.tree.add(message);
    this.keepMark({ kind: "compare", verdict, answers: [a.id, b.id], annotation: stored.annotation }, "chat.kept_choice");
  }

  keepMark(mark, thanks) {
    this.marks.put(mark);
    const at = document.activeElement?.dataset?.act ?? document.activeElement?.dataset?.verdict;
    const turn = document.activeElement?.closest("[data-turn]")?.dataset.turn;
    this.draw();
    const within = turn ? find(`[data-turn="${turn}"]`, this.thread) : this.thread;
    if (at) find(`[data-act="${at}"], [data-verdict="${at}"]`, within)?.focus();
    toast(t(thanks));
  }

  async copy(turn) {
    await navigator.clipboard.writeText(turn.content).then(() => toast(t("chat.copied")), (error) => say(String(error)));
  }

  async openHood(turn, element) {
    const button = find("[data-act=hood]", element);
    const open = find(".hood", element);
    button.setAttribute("aria-expanded", String(!open));
    if (open) return open.remove();
    const waiting = h("p", { class: "quiet hood" }, t("chat.loading"));
    element.append(waiting);
    try {
      waiting.replaceWith(await hood(`/api/chat/conversations/${this.id}/hood/${turn.id}`));
      element.scrollIntoView({ block: "nearest" });
    } catch (error) {
      waiting.textContent = whatFailed(error);
    }
  }

  // Mishaps

  /** What the server says, null where it refuses or the conversation has been left meanwhile. */
  async surely(method, path, body) {
    const opened = this.opened;
    try {
      const found = await call(method, `/api/chat/conversations/${this.id}${path}`, body);
      if (this.opened !== opened) return null;
      say(null);
      return found;
    } catch (error) {
      this.wrong(error);
      return null;
    }
  }

  wrong(error) {
    if (!(error instanceof Refused)) throw error;
    told(error);
  }

  /** What is wrong with an answer on its way: where the line broke, what it had brought stays. */
  broke(error) {
    if (error.status === 0) say(t("chat.lost"));
    else this.wrong(error);
  }

  drawer(open) {
    document.body.classList.toggle("drawer-open", open);
    find("#drawer").setAttribute("aria-expanded", String(open));
  }

  // Keys

  keys() {
    const last = () => this.tree.last("assistant");
    const press = (act, role = "assistant") => () => [...this.thread.querySelectorAll(`.${role} [data-act=${act}]`)].at(-1)?.click();
    const version = (by) => () => {
      const turn = last();
      const all = turn ? this.tree.siblings(turn) : [];
      const next = all[all.indexOf(turn) + by];
      if (next) this.show(next);
    };
    const pick = (verdict) => () => find(`.choice [data-verdict=${verdict}]`, this.thread)?.click();
    keys.bind([
      { keys: ["n"], text: t("chat_help.new"), run: () => this.go(null) },
      { keys: ["/"], text: t("chat_help.search"), run: () => { this.drawer(true); this.sidebar.search.focus(); } },
      { keys: ["i"], text: t("chat_help.write"), run: () => this.field.focus() },
      { keys: ["Escape"], text: t("chat_help.stop"), shown: ["Esc"], run: () => { this.stop(); this.drawer(false); } },
      { keys: ["e"], text: t("chat_help.edit"), run: press("edit", "user") },
      { keys: ["r"], text: t("chat_help.again"), run: () => { const turn = last(); if (turn) this.again(turn); } },
      { keys: ["+", "="], text: t("chat_help.up"), shown: ["+"], run: press("up") },
      { keys: ["-"], text: t("chat_help.down"), run: press("down") },
      { keys: ["w"], text: t("chat_help.rewrite"), run: press("rewrite") },
      { keys: ["u"], text: t("chat_help.hood"), run: press("hood") },
      { keys: ["["], run: version(-1) },
      { keys: ["]"], text: t("chat_help.versions"), shown: ["[", "]"], run: version(1) },
      { keys: ["1"], text: t("chat_help.choose"), shown: ["1", "2", "0", "X"], run: pick("a") },
      { keys: ["2"], run: pick("b") },
      { keys: ["0"], run: pick("tie") },
      { keys: ["x"], run: pick("both_bad") },
      { keys: ["s"], text: t("chat_help.settings"), run: () => { this.settings.panel.open = !this.settings.panel.open; find(this.settings.panel.open ? "input" : "summary", this.settings.panel).focus(); } },
      { keys: ["d"], text: t("chat_help.side"), run: () => find("#side_by_side").click() },
      { keys: ["?"], run: help },
    ]);
  }
}

async function start() {
  header();
  const chat = new Chat(find("#main"), await call("GET", "/api/chat/models"));
  chat.keys();
  find("#drawer").addEventListener("click", () => chat.drawer(!document.body.classList.contains("drawer-open")));
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest("#list, #drawer")) chat.drawer(false); });
  const fromPath = () => Number(location.pathname.slice(boot.root.length).split("/")[2]) || null;
  window.addEventListener("popstate", () => chat.go(fromPath(), false));
  await chat.go(fromPath(), false);
}

start().catch(told);
