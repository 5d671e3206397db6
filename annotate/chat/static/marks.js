// Feedback that stands on the answers of a conversation.

export class Marks {
  constructor(marks = []) {
    this.all = marks;
  }

  put(mark) {
    const same = (other) => other.kind === mark.kind && String(other.answers) === String(mark.answers);
    this.all = [...this.all.filter((other) => !same(other)), mark];
  }

  find(kind, ...answers) {
    return this.all.findLast((mark) => mark.kind === kind && String(mark.answers) === String(answers)) ?? null;
  }

  rate = (answer) => this.find("rate", answer);
  rewrite = (answer) => this.find("demonstrate", answer);

  /** The verdict on two answers, whichever was named first. */
  compared(a, b) {
    return this.find("compare", a, b) ?? this.find("compare", b, a);
  }

  isChosen(answer) {
    return this.all.some((mark) => mark.kind === "compare" && { a: 0, b: 1 }[mark.verdict] !== undefined && mark.answers[{ a: 0, b: 1 }[mark.verdict]] === answer);
  }
}
