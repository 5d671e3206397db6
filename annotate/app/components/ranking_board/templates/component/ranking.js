// A ranking being made: which rank each shown answer has. Knows nothing of the page.

/** ranks[i] is the rank (1 best, equal for ties) of the i-th shown answer, or null while it has none. */
export class Ranking {
  constructor(size, ranks = null) {
    this.size = size;
    this.ranks = ranks ?? Array(size).fill(null);
    this.past = [];
  }

  get untouched() {
    return this.ranks.every((rank) => rank === null);
  }

  get unranked() {
    return indices(this.ranks, (rank) => rank === null);
  }

  /** Give an answer a rank; the same rank as another's is a tie. */
  set(answer, rank) {
    this._change(this.ranks.map((old, i) => (i === answer ? rank : old)));
  }

  /** Tie an answer with the one next better than it; an unranked one with the last in the order. */
  tie(answer) {
    const own = this.ranks[answer];
    const others = this.ranks.filter((rank, i) => i !== answer && rank !== null && (own === null || rank <= own));
    if (others.length) this.set(answer, Math.max(...others));
  }

  /** Move an answer one group up (by = -1) or down (by = 1): first out of a tie, then into the next group. */
  move(answer, by) {
    if (this.ranks[answer] === null) {
      this.set(answer, by < 0 ? 1 : this.size);
      return;
    }
    const groups = this.groups();
    const place = groups.findIndex((group) => group.includes(answer));
    if (groups[place].length > 1) this.insert(answer, by < 0 ? place : place + 1);
    else if (groups[place + by]) this.insert(answer, by < 0 ? place - 1 : place + 2);
  }

  /** Put an answer alone between groups: before the group that now has index `place`. */
  insert(answer, place) {
    const groups = this.groups().map((group) => group.filter((i) => i !== answer));
    groups.splice(place, 0, [answer]);
    this._change(fromGroups(groups, this.size));
  }

  /** Tie an answer with another one. */
  join(answer, other) {
    if (answer !== other && this.ranks[other] !== null) this.set(answer, this.ranks[other]);
  }

  /** Answers that have ranks, best first, tied ones together. */
  groups() {
    const known = [...new Set(this.ranks.filter((rank) => rank !== null))].sort((a, b) => a - b);
    return known.map((rank) => indices(this.ranks, (other) => other === rank));
  }

  undo() {
    if (!this.past.length) return false;
    this.ranks = this.past.pop();
    return true;
  }

  /** Ranks to submit, 0 best, without gaps. Unranked answers: the shown order if all are, else tied in last place. */
  final() {
    if (this.untouched) return this.ranks.map((_, i) => i);
    const known = [...new Set(this.ranks.filter((rank) => rank !== null))].sort((a, b) => a - b);
    return this.ranks.map((rank) => (rank === null ? known.length : known.indexOf(rank)));
  }

  _change(ranks) {
    if (ranks.every((rank, i) => rank === this.ranks[i])) return;
    this.past.push(this.ranks);
    this.ranks = ranks;
  }
}

const indices = (values, holds) => values.flatMap((value, i) => (holds(value) ? [i] : []));

function fromGroups(groups, size) {
  const ranks = Array(size).fill(null);
  groups.filter((group) => group.length).forEach((group, rank) => group.forEach((i) => (ranks[i] = rank + 1)));
  return ranks;
}
