// The texts that the board says, in the reader's language; whoever shows a board gives them first.

let catalogue = {};

/** Speak from now on from a catalogue {section: {name: text}}. */
export function speak(texts) {
  catalogue = { ...catalogue, ...texts };
}

/** The text `key` ("rank.submit") in the reader's language, with {names} filled in. */
export function t(key, values = {}) {
  const [section, name] = key.split(".");
  const text = catalogue[section]?.[name] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, found) => values[found] ?? whole);
}
