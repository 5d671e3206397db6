// Small line drawings, so that the page needs no font with emoji.

const PATHS = {
  up: "M8 21V10l4-8c2 0 3 1 3 3v4h4.600c1.300 0 2.200 1.100 2 2.300l-1.300 8c-.2 1-1 1.700-2 1.700z M8 10H3v11h5",
  down: "M16 3v11l-4 8c-2 0-3-1-3-3v-4H4.400c-1.300 0-2.200-1.100-2-2.300l1.300-8C3.900 3.700 4.700 3 5.700 3z M16 14h5V3h-5",
  rewrite: "M3 21h18 M5 16l1-4 9-9 3 3-9 9z",
  edit: "M4 20l1-4L16 5l3 3L8 19z M14 7l3 3",
  again: "M20 12a8 8 0 1 1-2.500-5.800 M20 2.500V7h-4.500",
  copy: "M9 9h11v11H9z M15 9V4H4v11h5",
  hood: "M10.500 4a6.500 6.500 0 1 0 0 13a6.500 6.500 0 0 0 0-13z M15.300 15.300L21 21",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of [["viewBox", "0 0 24 24"], ["aria-hidden", "true"], ["class", "icon"]]) svg.setAttribute(key, value);
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
