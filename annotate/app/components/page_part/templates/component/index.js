// A place in a Gradio page that one of the labeling pages' own scripts fills (static/site.js).

export default function part(target, { shared_props: shared, props }) {
  const element = document.createElement("div");
  element.className = `part rlhf part-${props.shows}`;
  target.append(element);
  const take = () => {};
  shared.register_component(shared.id, take, async () => props);
  globalThis.rlhfParts[props.shows]({ element });
  return { destroy: () => { shared.unregister_component(shared.id, take); element.remove(); } };
}
