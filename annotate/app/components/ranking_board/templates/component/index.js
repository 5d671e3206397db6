// The board as Gradio knows it: registers with the page, takes properties, says what happened. No build step, no eval.

export default function board(target, { shared_props: shared, props }) {
  const state = { ...props };
  const element = document.createElement("div");
  element.className = "ranking-board rlhf";
  if (shared.elem_id) element.id = shared.elem_id;
  target.append(element);
  const watchers = {};
  const take = (data) => {
    for (const [name, value] of Object.entries(data)) {
      const changed = JSON.stringify(state[name]) !== JSON.stringify(value);
      state[name] = value;
      if (changed) watchers[name]?.();
    }
  };
  shared.register_component(shared.id, take, async () => state);
  const page = {
    element, state, shared,
    trigger: (event, data) => shared.dispatcher(shared.id, event, data),
    watch: (name, run) => { watchers[name] = run; },
  };
  if (state.tasks_from) globalThis.rlhfParts[state.tasks_from](page);
  else import("./alone.js").then(({ mount }) => mount(page));
  return { destroy: () => { shared.unregister_component(shared.id, take); element.remove(); } };
}
