// What the reader sees and does: the paragraphs, the editor, search, marks, menus and the keyboard.

const FOLLOW_AFTER = 4000; // milliseconds after the reader has scrolled
const GROUP = 12; // paragraphs; the browser checks in each frame whether each group is near the screen
const ABOUT = 1; // seconds by which an estimated time of a word may be wrong

/** The paragraphs. Each becomes words that can be clicked when it comes near the screen, so that ten hours open at once. */
class TextView {
  constructor(talk, player) {
    this.talk = talk;
    this.player = player;
    this.root = $("text");
    this.threshold = talk.page.doubtful;
    const measured = talk.doc.calibration;
    this.calibrated = measured ? `, as measured on ${measured.fitted_at.slice(0, 10)}` : "";
    this.current = { paragraph: null, elements: [] };
    this.scrolledAt = -Infinity;
    this.onPaint = () => {};
    this.onEdited = () => {};
    this.watcher = new IntersectionObserver((entries) => this.#meet(entries), { rootMargin: "600px 0px" });
    this.rows = talk.paragraphs.map((paragraph) => this.#makeRow(paragraph));
    this.groups = [];
    for (let first = 0; first < this.rows.length; first += GROUP) this.groups.push(this.#makeGroup(first));
    this.root.replaceChildren(...this.groups);
    for (const group of this.groups) this.watcher.observe(group);
    this.nameVoices();
    this.root.addEventListener("click", (event) => this.#click(event));
    this.root.addEventListener("dblclick", (event) => this.#doubleClick(event));
    for (const event of ["wheel", "touchmove"]) {
      addEventListener(event, () => (this.scrolledAt = performance.now()), { passive: true });
    }
    addEventListener("beforeprint", () => this.rows.forEach((row) => this.#hydrate(row)));
  }

  /** The words with their times: [{start, end, isExact}]; a time that is not known is estimated from the text's length. */
  timesOf(row) {
    row.times ??= timeWords(row.paragraph);
    return row.times;
  }

  /** Write a paragraph again after its text has changed. */
  refresh(paragraph) {
    const row = this.rows[paragraph.index];
    row.times = null;
    row.element.classList.toggle("changed", this.talk.textOf(paragraph) !== paragraph.original);
    this.#paint(row);
    this.follow({ isForced: true });
  }

  /** Write all names again. */
  nameVoices() {
    let before;
    for (const { paragraph, who, element } of this.rows) {
      const name = this.talk.nameOf(paragraph);
      const isSame = before !== undefined && before === paragraph.voice && name !== "";
      element.classList.toggle("same", isSame);
      if (who) who.textContent = name;
      before = paragraph.mark ? undefined : paragraph.voice;
    }
  }

  setThreshold(threshold) {
    this.threshold = threshold;
    for (const row of this.rows) if (row.isNear && !row.editor) this.#markDoubts(row);
  }

  /** The doubtful words in order: [{row, index, time}]. */
  doubts() {
    const found = [];
    for (const row of this.rows) {
      if (row.paragraph.mark) continue;
      const tokens = row.paragraph.pieces.flatMap((piece) => piece.tokens);
      if (!tokens.some((token) => this.#isDoubtful(token))) continue;
      const times = this.timesOf(row);
      tokens.forEach((token, index) => {
        if (this.#isDoubtful(token)) found.push({ row, index, time: times[index].start });
      });
    }
    return found;
  }

  /** Light up what is spoken at the position, and bring it into view while it plays. */
  follow({ isForced = false } = {}) {
    const { at } = this.player;
    const row = this.#rowAt(at);
    let elements = [];
    const hasBegun = at > 0 || this.player.isPlaying;
    if (!hasBegun) elements = [];
    else if (row && !row.paragraph.mark && row.isNear && !row.editor) elements = this.#elementsAt(row, at);
    else if (row?.paragraph.mark && at >= row.paragraph.start && at <= row.paragraph.end) elements = [row.words];
    const shown = this.current.elements;
    if (isForced || elements[0] !== shown[0] || elements.at(-1) !== shown.at(-1)) {
      for (const element of this.current.elements) element.classList.remove("now");
      for (const element of elements) element.classList.add("now");
      this.current.elements = elements;
    }
    if (row === this.current.row) return;
    this.current.row?.element.removeAttribute("aria-current");
    row?.element.setAttribute("aria-current", "true");
    this.current.row = row;
    const isReading = performance.now() - this.scrolledAt < FOLLOW_AFTER || this.rows.some(({ editor }) => editor);
    if (row && this.player.isPlaying && !isReading) this.show(row);
  }

  show(row) {
    this.#hydrate(row);
    const box = row.element.getBoundingClientRect();
    const [top, bottom] = [$("tools").offsetHeight + 16, innerHeight - $("player").offsetHeight - 16];
    if (box.top >= top && Math.min(box.bottom, box.top + 80) <= bottom) return;
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches || Math.abs(box.top) > 3 * innerHeight;
    scrollTo({ top: scrollY + box.top - top - (bottom - top) / 4, behavior: isCalm ? "instant" : "smooth" });
  }

  /** Mark the paragraphs that overlap a clip in the page. */
  showClips(clips) {
    const isIn = ({ start, end }) => clips.some((clip) => start < clip.end_s && clip.start_s < end);
    for (const { element, paragraph } of this.rows) element.classList.toggle("clip", isIn(paragraph));
  }

  /** Go to the paragraph before or after the position. */
  step(by) {
    const speech = this.rows;
    const at = this.current.row ? speech.indexOf(this.current.row) : -1;
    const row = speech[Math.min(Math.max(0, at + by), speech.length - 1)];
    if (!row) return;
    this.player.seek(row.paragraph.start);
    this.show(row);
    row.at?.focus({ preventScroll: true });
  }

  /** Show a word by its number in its paragraph, and select nothing else. */
  showWord(row, index) {
    this.show(row);
    for (const each of document.querySelectorAll(".chosen")) each.classList.remove("chosen");
    row.words.querySelector(`[data-i="${index}"]`)?.classList.add("chosen");
  }

  /** Turn a paragraph into an editor; a word may be given at which the cursor begins. */
  edit(row, index = null) {
    if (!row || row.paragraph.mark || row.editor) return;
    this.#hydrate(row);
    const text = this.talk.textOf(row.paragraph);
    const field = make("textarea", { value: text, className: "words", rows: 1, spellcheck: true, dir: "auto" });
    field.lang = row.words.lang;
    field.setAttribute("aria-label", `Text at ${formatTime(row.paragraph.start)}`);
    const [done, hear, cancel] = [
      make("button", { type: "button", textContent: "Done" }),
      make("button", { type: "button", textContent: "Play", title: "Play this paragraph (Ctrl+Space)" }),
      make("button", { type: "button", textContent: "Cancel" }),
    ];
    const box = make("div", { className: "editor" }, field, make("div", { className: "actions" }, done, hear, cancel));
    const close = (isKept, hasFocus) => {
      if (row.editor !== box) return;
      row.editor = null;
      box.replaceWith(row.words);
      if (isKept && this.talk.correct(row.paragraph, field.value)) {
        this.refresh(row.paragraph);
        this.onEdited();
      }
      if (hasFocus) row.at.focus({ preventScroll: true });
    };
    const grow = () => {
      field.style.height = "auto";
      field.style.height = `${field.scrollHeight}px`;
    };
    const play = () => (this.player.isPlaying ? this.player.pause() : this.player.playFrom(row.paragraph.start));
    field.addEventListener("input", grow);
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" || event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        close(event.key === "Enter", true);
      } else if (event.key === " " && event.ctrlKey) {
        event.preventDefault();
        play();
      }
    });
    box.addEventListener("focusout", (event) => {
      if (!box.contains(event.relatedTarget) && document.hasFocus()) close(true, false);
    });
    done.addEventListener("click", () => close(true, true));
    cancel.addEventListener("click", () => close(false, true));
    hear.addEventListener("click", play);
    row.editor = box;
    row.words.replaceWith(box);
    grow();
    field.focus({ preventScroll: true });
    const tokens = this.talk.tokensOf(row.paragraph).map((shown) => shown.text);
    const offset = tokens.slice(0, index ?? Infinity).join("").length;
    const [start, end] = index === null ? [0, 0] : spanOfWord(tokens[index]);
    field.setSelectionRange(offset + start, offset + end);
  }

  rowOf(element) {
    const index = element?.closest?.(".turn")?.dataset.index;
    return index === undefined ? null : this.rows[index];
  }

  #makeRow(paragraph) {
    const element = make("div", { className: paragraph.mark ? "turn mark" : "turn" });
    element.dataset.index = paragraph.index;
    const text = this.talk.textOf(paragraph);
    const words = make("p", { className: "words", textContent: text, dir: "auto" });
    const language = this.talk.languageOf(paragraph);
    if (language) words.lang = language;
    const gutter = make("div", { className: "gutter" });
    const row = { paragraph, element, words, who: null, at: null, times: null, isNear: false, editor: null };
    if (paragraph.voice !== null) {
      row.who = make("button", { type: "button", className: "who", tabIndex: -1, title: "Rename" });
      row.who.style.color = `var(${voiceColor(paragraph.voice)})`;
      row.who.dir = "auto";
      gutter.append(row.who);
    }
    if (paragraph.mark?.kind !== "cut") {
      const time = formatTime(paragraph.start);
      row.at = make("button", { type: "button", className: "at", textContent: time, title: "Play from here" });
      row.at.setAttribute("aria-label", `Play from ${time}`);
      gutter.append(row.at);
    }
    element.append(gutter, words);
    if (!paragraph.mark) {
      const flags = [...new Set(paragraph.pieces.flatMap(({ segment }) => this.talk.doc.segments[segment].flags))];
      const notes = flags.map((flag) => FLAGS[flag]).filter(Boolean);
      const side = make("div", { className: "side" });
      for (const [label, title] of notes) side.append(make("span", { className: "flag", textContent: label, title }));
      const edit = make("button", { type: "button", className: "edit", textContent: "Correct" });
      edit.setAttribute("aria-label", `Correct the text at ${formatTime(paragraph.start)}`);
      side.append(edit);
      element.append(side);
    }
    row.height = 34 + Math.ceil(text.length / 68) * 30; // pixels, about
    return row;
  }

  /** Paragraphs that are split into words, and laid out, together. */
  #makeGroup(first) {
    const rows = this.rows.slice(first, first + GROUP);
    const group = make("div", { className: "group" }, ...rows.map(({ element }) => element));
    group.dataset.first = first;
    group.style.containIntrinsicSize = `auto ${rows.reduce((sum, { height }) => sum + height, 0)}px`;
    return group;
  }

  #meet(entries) {
    let isNew = false;
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      const first = Number(target.dataset.first);
      for (const row of this.rows.slice(first, first + GROUP)) isNew = this.#hydrate(row) || isNew;
      this.watcher.unobserve(target);
    }
    if (isNew) this.follow({ isForced: true });
  }

  #hydrate(row) {
    if (row.isNear) return false;
    row.isNear = true;
    if (!row.paragraph.mark) this.#paint(row);
    else this.onPaint(row);
    return true;
  }

  #paint(row) {
    if (!row.isNear) {
      row.words.textContent = this.talk.textOf(row.paragraph);
      return;
    }
    const parts = [];
    this.talk.tokensOf(row.paragraph).forEach(({ text, token }, index) => {
      const word = text.trimStart();
      const span = make("span", { className: "word", textContent: word });
      span.dataset.i = index;
      if (token.word?.confidence != null) span.dataset.c = token.word.confidence;
      parts.push(text.slice(0, text.length - word.length), span);
    });
    row.words.replaceChildren(...parts);
    row.words.classList.toggle("empty", !parts.length);
    this.#markDoubts(row);
    this.onPaint(row);
  }

  #markDoubts(row) {
    for (const span of row.words.querySelectorAll("[data-c]")) {
      const isDoubtful = Number(span.dataset.c) < this.threshold;
      span.classList.toggle("doubt", isDoubtful);
      if (isDoubtful) span.title = `Confidence ${Math.round(100 * span.dataset.c)}%${this.calibrated}`;
      else span.removeAttribute("title");
    }
  }

  #isDoubtful(token) {
    return token.word?.confidence != null && token.word.confidence < this.threshold;
  }

  /** The last paragraph that begins at or before a time. */
  #rowAt(seconds) {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].paragraph.start <= seconds + 0.005) low = middle + 1;
      else high = middle;
    }
    return this.rows[low - 1] ?? null;
  }

  /** The word at a time, or those about there where the times of words are estimates. */
  #elementsAt(row, seconds) {
    const times = this.timesOf(row);
    const at = times.findLastIndex(({ start }) => start <= seconds + 0.005);
    if (at < 0 || seconds > times[at].end + 1) return [];
    let [first, last] = [at, at];
    const isAbout = (index) => times[index]?.isExact === false && Math.abs(times[index].start - seconds) < ABOUT;
    if (!times[at].isExact) {
      while (isAbout(first - 1)) first -= 1;
      while (isAbout(last + 1)) last += 1;
    }
    return [...row.words.children].slice(first, last + 1);
  }

  #click(event) {
    const row = this.rowOf(event.target);
    if (!row || row.editor?.contains(event.target)) return;
    if (event.target.closest(".edit")) this.edit(row);
    else if (event.target.closest(".who")) this.onRename(row.who, row.paragraph.voice);
    else if (event.target.closest(".at")) this.player.playFrom(row.paragraph.start);
    else if (getSelection().isCollapsed && event.target.closest(".words")) {
      const word = event.target.closest(".word");
      const start = word ? this.timesOf(row)[word.dataset.i].start : row.paragraph.start;
      this.player.playFrom(start);
    }
  }

  #doubleClick(event) {
    const row = this.rowOf(event.target);
    if (!row || row.editor || !event.target.closest(".words")) return;
    this.player.pause();
    const word = event.target.closest(".word");
    this.edit(row, word ? Number(word.dataset.i) : null);
  }
}

const FLAGS = {
  retried: ["second try", "The first result was not usable; this part was transcribed again in smaller pieces."],
  overlap: ["joined", "Speech went on without a pause here; two parts that overlap were joined."],
};

/** Where the word itself begins and ends in a token, without the space and the punctuation around it. */
function spanOfWord(token) {
  const start = token.search(/[\p{L}\p{N}]/u);
  if (start < 0) return [token.length - token.trimStart().length, token.length];
  return [start, token.length - /[^\p{L}\p{N}\p{M}]*$/u.exec(token)[0].length];
}

function timeWords(paragraph) {
  const times = [];
  for (const { tokens, start, end } of paragraph.pieces) {
    const weights = tokens.map((token) => weigh(token.text) + 0.5);
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    let passed = 0;
    tokens.forEach(({ word }, index) => {
      const from = start + ((end - start) * passed) / total;
      passed += weights[index];
      const to = start + ((end - start) * passed) / total;
      const isExact = word?.start_s != null && word.end_s != null;
      times.push(isExact ? { start: word.start_s, end: word.end_s, isExact } : { start: from, end: to, isExact });
    });
  }
  return times;
}
