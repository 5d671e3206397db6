// A place in a Gradio page that one of our own scripts fills (static/site.js, static/lead.js), again with every new value.

export default function part(target, { shared_props: shared, props }) {
  const state = { ...props };
  const element = document.createElement("div");
  element.className = `part rlhf part-${props.shows}`;
  if (shared.elem_id) element.id = shared.elem_id;
  target.append(element);
  const watchers = [];
  const take = (data) => {
    const changed = "value" in data && JSON.stringify(data.value) !== JSON.stringify(state.value);
    Object.assign(state, data);
    if (changed) for (const run of watchers) run();
  };
  shared.register_component(shared.id, take, async () => state);
  globalThis.rlhfParts[props.shows]({ element, state, watch: (run) => watchers.push(run) });
  return { destroy: () => { shared.unregister_component(shared.id, take); element.remove(); } };
}
