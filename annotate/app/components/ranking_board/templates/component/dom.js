// Elements made without any string of HTML: text goes in as text nodes, so nothing in it can become markup.

const ALLOWED = new Set([
  "p", "ul", "ol", "li", "blockquote", "em", "strong", "s", "table", "thead", "tbody", "tr", "th", "td", "hr", "br",
  "h3", "h4", "h5", "h6", "pre", "code", "span", "mark",
]);

/** An element: h("button", {class: "big", onclick: f, "aria-label": "x"}, child, …). Children: nodes, text, null. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The server's tree for a text (annotate/app/rendering.py) as elements. */
export function nodes(tree) {
  return tree.map((node) => {
    if (typeof node === "string") return node;
    const [tag, ...children] = node;
    if (!ALLOWED.has(tag)) throw new Error(`unexpected tag ${tag}`);
    return h(tag, {}, ...nodes(children));
  });
}

export const find = (selector, within = document) => within.querySelector(selector);

/** Focus an element without a jump of the page unless it is out of sight. */
export function focus(element) {
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "nearest", inline: "nearest" });
}
