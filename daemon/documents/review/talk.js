// The transcript under review: its paragraphs and voices, corrections with undo, and the corrected JSON document.

/**
 * A paragraph is speech ({voice, pieces}) or a mark of what is missing ({mark}). A piece is the part of one segment
 * in one paragraph; its tokens are never changed, only replaced, so that undo can keep the old ones.
 */
class Talk {
  constructor(doc, page) {
    this.doc = doc;
    this.page = page;
    this.voices = page.voices.map((voice) => ({ ...voice, given: voice.name }));
    this.piecesOf = doc.segments.map(() => []);
    this.paragraphs = page.paragraphs.map((row, index) => this.#readParagraph(row, index));
    this.piecesOf.forEach((pieces, segment) => addWords(pieces, doc.segments[segment].words ?? []));
    for (const paragraph of this.paragraphs) paragraph.original = this.textOf(paragraph);
    this.done = [];
    this.undone = [];
  }

  get duration() {
    return this.doc.audio.duration_s;
  }

  get isChanged() {
    return (
      this.voices.some((voice) => voice.name !== voice.given) ||
      this.paragraphs.some((paragraph) => paragraph.isTouched && this.textOf(paragraph) !== paragraph.original)
    );
  }

  /** The text of a paragraph, as all documents write it. */
  textOf(paragraph) {
    if (paragraph.mark) return paragraph.mark.text;
    return this.tokensOf(paragraph)
      .map(({ text }) => text)
      .join("");
  }

  /** The tokens of a paragraph as they are shown: [{text with the space before it, token, piece}]. */
  tokensOf(paragraph) {
    const shown = [];
    for (const piece of paragraph.pieces) {
      piece.tokens.forEach((token, index) => {
        let text = token.text.replace(/\s+/g, " ");
        if (index === 0) {
          text = text.trimStart();
          if (shown.length && !isTight(shown.at(-1).text, text)) text = ` ${text}`;
        }
        shown.push({ text, token, piece });
      });
    }
    return shown;
  }

  nameOf(paragraph) {
    return paragraph.voice == null ? "" : this.voices[paragraph.voice].name;
  }

  /** The language of a paragraph as a code for the attribute `lang`; "" where it is not known. */
  languageOf(paragraph) {
    const language = paragraph.pieces.length ? this.doc.segments[paragraph.pieces[0].segment].language : null;
    return this.page.languages[language] ?? "";
  }

  /** Replace the text of a paragraph. Words that stay keep their times; others take those of the words they replace. */
  correct(paragraph, value) {
    const texts = tokensOf(value.trim().replace(/\s+/g, " "));
    const before = paragraph.pieces.map((piece) => piece.tokens);
    const after = reword(paragraph, texts);
    if (before.every((tokens, index) => spell(tokens) === spell(after[index]))) return false;
    this.#apply({ paragraph, before, after });
    return true;
  }

  /** Give a voice another name, everywhere; an empty name brings the first one back. */
  rename(voice, name) {
    const after = name.trim().replace(/\s+/g, " ") || voice.given;
    if (after === voice.name) return false;
    this.#apply({ voice, before: voice.name, after });
    return true;
  }

  /** Take the last change back, or return null where there is none. */
  undo() {
    const change = this.done.pop();
    if (!change) return null;
    put(change, change.before);
    this.undone.push(change);
    return change;
  }

  redo() {
    const change = this.undone.pop();
    if (!change) return null;
    put(change, change.after);
    this.done.push(change);
    return change;
  }

  /** What differs from the delivered text, small enough for the browser's storage. */
  changes() {
    const paragraphs = {};
    for (const [index, paragraph] of this.paragraphs.entries()) {
      if (!paragraph.isTouched) continue;
      const text = this.textOf(paragraph);
      if (text !== paragraph.original) paragraphs[index] = text;
    }
    const names = {};
    for (const [index, voice] of this.voices.entries()) if (voice.name !== voice.given) names[index] = voice.name;
    return { paragraphs, names };
  }

  /** Apply what `changes` returned earlier. */
  restore({ paragraphs, names }) {
    for (const [index, text] of Object.entries(paragraphs)) {
      const paragraph = this.paragraphs[index];
      if (paragraph?.pieces.length) this.correct(paragraph, String(text));
    }
    for (const [index, name] of Object.entries(names)) {
      if (this.voices[index]) this.rename(this.voices[index], String(name));
    }
  }

  /** Take all changes back. */
  reset() {
    while (this.undo());
    this.undone = [];
  }

  /** The JSON document with all corrections: the model's own words are kept in `text_raw`. */
  document() {
    if (!this.isChanged) return this.doc;
    const doc = structuredClone(this.doc);
    doc.corrected_at = `${new Date().toISOString().slice(0, 19)}Z`;
    this.piecesOf.forEach((pieces, index) => {
      const segment = doc.segments[index];
      if (!pieces.some((piece) => piece.paragraph.isTouched)) return;
      const text = pieces.map((piece) => piece.lead + spell(piece.tokens)).join("").trim();
      if (text === segment.text) return;
      const raw = segment.text_raw ?? segment.text;
      segment.text_raw = raw === text ? null : raw;
      segment.text = text;
      if (segment.words?.length) segment.words = pieces.flatMap((piece) => piece.tokens.map(({ word }) => word));
    });
    for (const voice of this.voices) if (voice.name !== voice.given) writeName(doc, voice);
    doc.text = joinTexts(doc.segments.map((segment) => segment.text));
    return doc;
  }

  #readParagraph(row, index) {
    if (row.mark != null) {
      const mark = this.page.marks[row.mark];
      return { index, mark, pieces: [], voice: null, start: mark.start_s, end: mark.end_s };
    }
    const paragraph = { index, voice: row.voice, isTouched: false };
    paragraph.pieces = row.pieces.map(([segment, from, to, start, end]) => {
      const text = this.doc.segments[segment].text.slice(from, to);
      const lead = text.slice(0, text.length - text.trimStart().length);
      const tokens = tokensOf(text.trim()).map((token) => ({ text: token, word: null }));
      const piece = { segment, paragraph, lead, start, end, tokens };
      this.piecesOf[segment].push(piece);
      return piece;
    });
    paragraph.start = paragraph.pieces[0].start;
    paragraph.end = paragraph.pieces.at(-1).end;
    return paragraph;
  }

  #apply(change) {
    put(change, change.after);
    this.done.push(change);
    this.undone = [];
  }
}

function put(change, state) {
  if (change.voice) {
    change.voice.name = state;
    return;
  }
  change.paragraph.pieces.forEach((piece, index) => {
    piece.tokens = state[index];
  });
  change.paragraph.isTouched = true;
}

function spell(tokens) {
  return tokens.map(({ text }) => text).join("");
}

/** Give the tokens of a segment their words, if there is one for each. */
function addWords(pieces, words) {
  const tokens = pieces.flatMap((piece) => piece.tokens);
  if (words.length !== tokens.length) return;
  tokens.forEach((token, index) => {
    token.word = words[index];
  });
}

/** Spread new texts over the pieces of a paragraph, whose tokens stay where they still occur. */
function reword(paragraph, texts) {
  const old = paragraph.pieces.flatMap((piece, home) => piece.tokens.map((token) => ({ token, home })));
  const pairs = pairTokens(
    old.map(({ token }) => token.text.trim()),
    texts.map((text) => text.trim()),
  );
  const after = paragraph.pieces.map(() => []);
  const add = (home, text, word) => {
    const tokens = after[home];
    tokens.push({ text: tokens.length ? text : text.trimStart(), word });
  };
  const hasWords = old.some(({ token }) => token.word);
  let [from, next] = [0, 0];
  for (const [stop, to] of [...pairs, [old.length, texts.length]]) {
    const gone = old.slice(from, stop);
    const home = (gone[0] ?? old[from - 1] ?? old[stop])?.home ?? 0;
    const added = texts.slice(next, to);
    const words = hasWords ? replaceWords(added, gone, old[from - 1], old[stop]) : [];
    added.forEach((text, index) => add(home, text, words[index] ?? null));
    if (stop < old.length) add(old[stop].home, texts[to], old[stop].token.word);
    [from, next] = [stop + 1, to + 1];
  }
  return after;
}

/** Words for new texts, which share the time of those they replace; a person wrote them, so confidence is not known. */
function replaceWords(texts, gone, before, after) {
  const start = (gone[0] ? gone[0].token.word?.start_s : before?.token.word?.end_s) ?? null;
  const end = (gone.length ? gone.at(-1).token.word?.end_s : after?.token.word?.start_s) ?? null;
  const isTimed = start !== null && end !== null && end >= start;
  const weights = texts.map((text) => weigh(text) + 0.5);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let passed = 0;
  return texts.map((text, index) => {
    const begin = start + ((end - start) * passed) / total;
    passed += weights[index];
    const stop = start + ((end - start) * passed) / total;
    const round = (seconds) => (isTimed ? Math.round(seconds * 1000) / 1000 : null);
    return { start_s: round(begin), end_s: round(stop), text: text.trim(), confidence: null };
  });
}

/** A new name goes to `speakers`; a channel or a track that gets one becomes a speaker. */
function writeName(doc, voice) {
  let id = voice.speaker;
  doc.speakers ??= [];
  if (id === null) {
    const places = Object.entries({ track: voice.track, channel: voice.channel }).filter(([, number]) => number !== null);
    id = places.map(([kind, number]) => `${kind}-${number}`).join("-");
    for (const segment of doc.segments) {
      const isOfVoice = segment.channel === voice.channel && segment.track === voice.track;
      if (segment.speaker === null && isOfVoice) segment.speaker = id;
    }
  }
  const known = doc.speakers.find((speaker) => speaker.id === id);
  if (known) {
    known.name = voice.name;
    return;
  }
  const spoken = doc.segments.filter((segment) => segment.speaker === id);
  const speech = spoken.reduce((sum, segment) => sum + segment.end_s - segment.start_s, 0);
  doc.speakers.push({ id, name: voice.name, speech_s: Math.round(speech * 1000) / 1000 });
}

/** Unsaved corrections in the browser's storage, under the id of the job. */
class Memory {
  constructor(talk) {
    this.talk = talk;
    this.key = `scribed:${talk.doc.job_id}`;
    this.base = digest(talk.doc.text);
    this.isBroken = false;
  }

  /** Bring back what an earlier visit left; return when it was changed, or null where there is nothing. */
  load() {
    try {
      const kept = JSON.parse(localStorage.getItem(this.key) ?? "null");
      if (kept?.base !== this.base) return null;
      this.talk.restore(kept);
      return this.talk.isChanged ? kept.at : null;
    } catch {
      return null;
    }
  }

  /** Keep what is not saved yet; return whether the browser allows it. */
  keep() {
    try {
      if (!this.talk.isChanged) localStorage.removeItem(this.key);
      else localStorage.setItem(this.key, JSON.stringify({ ...this.talk.changes(), base: this.base, at: Date.now() }));
      this.isBroken = false;
    } catch {
      this.isBroken = true;
    }
    return !this.isBroken;
  }

  forget() {
    try {
      localStorage.removeItem(this.key);
    } catch {
      this.isBroken = true;
    }
  }
}

/** A short fingerprint (FNV-1a), to know whether kept corrections belong to this text. */
function digest(text) {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return `${text.length}-${hash >>> 0}`;
}
