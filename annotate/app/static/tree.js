// What Python's handlers show on a lead's pages: a tree of known tags, in which a text is a text whatever stands in it.

import { h } from "./board/dom.js";
import { boot } from "./boot.js";

const TAGS = new Set([
  "a", "bdi", "br", "caption", "code", "details", "div", "h1", "h2", "header", "img", "li", "mark", "p", "progress", "section",
  "span", "strong", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul",
]);
const WORDS = new Set([
  "alt", "aria-label", "aria-labelledby", "class", "data-label", "download", "id", "max", "role", "scope", "tabindex", "value",
]);
const ADDRESSES = new Set(["href", "src"]);

/** Shows the value of a part, and each that follows; what the reader has unfolded and focused stays so. */
export function tree({ element, state, watch }) {
  const show = () => {
    const open = [...element.querySelectorAll("details[open]")].map((details) => details.id);
    const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
    element.replaceChildren(...made(state.value ?? []));
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };
  watch(show);
  show();
}

/** Elements of nodes: a text, or [tag, {attributes}, child, …] where the attributes may be left out. */
function made(nodes) {
  return nodes.map((node) => {
    if (!Array.isArray(node)) return String(node);
    const [tag, ...rest] = node;
    if (!TAGS.has(tag)) throw new Error(`unexpected tag ${tag}`);
    const named = rest.length > 0 && typeof rest[0] === "object" && !Array.isArray(rest[0]);
    const [attributes, children] = named ? [rest[0], rest.slice(1)] : [{}, rest];
    for (const [name, value] of Object.entries(attributes)) check(name, value);
    return h(tag, attributes, ...made(children));
  });
}

/** Throws for an attribute that does something, and for an address that leads elsewhere. */
function check(name, value) {
  const ours = ADDRESSES.has(name) && new URL(value, location.href).href.startsWith(`${location.origin}${boot.root}/`);
  if (!ours && !WORDS.has(name)) throw new Error(`unexpected attribute ${name}`);
}
