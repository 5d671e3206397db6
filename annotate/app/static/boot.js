// What the server put into the page: who is signed in, the catalogue of texts, the CSRF token.

export const boot = JSON.parse(document.getElementById("boot").textContent);

/** The text `key` ("rank.submit") in the reader's language, with {names} filled in. */
export function t(key, values = {}) {
  const [section, name] = key.split(".");
  const text = boot.texts[section]?.[name] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, found) => values[found] ?? whole);
}
