// Search in the whole transcript.

/** Finds words in the whole transcript and marks them where the browser can (CSS Custom Highlight API). */
class Search {
  constructor(talk, view) {
    this.talk = talk;
    this.view = view;
    this.matches = [];
    this.at = -1;
    this.pattern = null;
    this.canMark = typeof Highlight === "function" && CSS.highlights !== undefined;
  }

  /** Look for words; spaces match any space. Returns how many there are. */
  find(words) {
    const parts = words.trim().split(/\s+/).filter(Boolean);
    this.pattern = parts.length ? new RegExp(parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("\\s+"), "giu") : null;
    this.matches = [];
    for (const row of this.pattern ? this.view.rows : []) {
      for (const match of this.talk.textOf(row.paragraph).matchAll(this.pattern)) {
        this.matches.push({ row, start: match.index, end: match.index + match[0].length });
      }
    }
    this.at = -1;
    this.mark();
    return this.matches.length;
  }

  /** Go to the next match, or with -1 to the one before; the first one is the next after the position. */
  go(by) {
    if (!this.matches.length) return;
    if (this.at < 0) {
      const now = this.view.player.at;
      const next = this.matches.findIndex(({ row }) => row.paragraph.end >= now);
      this.at = next < 0 ? 0 : next;
      if (by < 0) this.at = (this.at - 1 + this.matches.length) % this.matches.length;
    } else {
      this.at = (this.at + by + this.matches.length) % this.matches.length;
    }
    this.view.show(this.matches[this.at].row);
    this.mark();
  }

  mark() {
    if (!this.canMark) return;
    const near = this.matches.filter(({ row }) => row.isNear && !row.editor);
    const current = this.matches[this.at];
    CSS.highlights.set("found", new Highlight(...near.filter((match) => match !== current).map(toRange)));
    CSS.highlights.set("found-now", new Highlight(...(current && !current.row.editor ? [toRange(current)] : [])));
  }
}

/** The range of a match among the text nodes of its paragraph. */
function toRange({ row, start, end }) {
  const range = new Range();
  const walker = document.createTreeWalker(row.words, NodeFilter.SHOW_TEXT);
  let passed = 0;
  let hasStart = false;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!hasStart && start < passed + node.length) {
      range.setStart(node, start - passed);
      hasStart = true;
    }
    if (end <= passed + node.length) {
      range.setEnd(node, end - passed);
      break;
    }
    passed += node.length;
  }
  return range;
}
