// The conversation as a tree: which turns there are, which branch is shown.

/** Whether two answers to one question were given the same system text and the same turns, so that they can be compared. */
export const samePrompt = (a, b) => a.prompt_id === b.prompt_id;

export class Tree {
  constructor(messages = []) {
    this.turns = new Map();
    for (const message of messages) this.add(message);
    this.leaf = this.newestBelow(null);
  }

  add(message) {
    this.turns.set(message.id, message);
  }

  /** Turns that follow `parent`, oldest first. */
  children(parent) {
    return [...this.turns.values()].filter((turn) => turn.parent === parent).sort((a, b) => a.id - b.id);
  }

  /** The id at the end of the branch below `id` that was written last. */
  newestBelow(id) {
    for (;;) {
      const below = this.children(id);
      if (!below.length) return id;
      id = below.at(-1).id;
    }
  }

  /** The turns from the first one to `leaf`. */
  path(leaf = this.leaf) {
    const turns = [];
    for (let turn = this.turns.get(leaf); turn; turn = this.turns.get(turn.parent)) turns.unshift(turn);
    return turns;
  }

  siblings(turn) {
    return this.children(turn.parent);
  }

  /** Both answers of the pair that `turn` belongs to, in the order they were shown; null where it is no pair. */
  pair(turn) {
    if (!turn?.pair) return null;
    const both = this.siblings(turn).filter((other) => other.pair?.id === turn.pair.id).sort((a, b) => a.pair.place - b.pair.place);
    return both.length === 2 ? both : null;
  }

  show(turn) {
    this.leaf = this.newestBelow(turn.id);
  }

  last(role) {
    return this.path().findLast((turn) => turn.role === role) ?? null;
  }
}
