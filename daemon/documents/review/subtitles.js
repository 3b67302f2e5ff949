// Subtitles of a corrected transcript, by the rules of daemon/documents/cues.py. tests/documents compares the results.

const LINES = 2;
const SHORTEST_CUE = 1; // seconds, like the next ones
const LONGEST_CUE = 7;
const SHORTEST_ITEM = 0.5;
const CUT_CUE = 5;
const OVERLAP = 0.2;
const JOIN_PAUSE = 1;
const CLAUSE_PAUSE = 0.3;
const DASH = "- ";
const NEVER_FIRST = new Set("、。，．！？；：）」』】〕》…ー々”’");
const NEVER_LAST = new Set("（「『【〔《“‘");
const NUMERAL = "0-9０-９零〇一二三四五六七八九十百千万亿億萬点點";
const NUMBER = new RegExp(`[${NUMERAL}][${NUMERAL}.,:/%-]*$`, "u");
const NUMBER_GOES_ON = new RegExp(`^[${NUMERAL}]`, "u");
const CLAUSE_END = /[,;:،؛，；：、]$/u;
const WIDE =
  /[\u1100-\u115f\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe10-\ufe19\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{1f300}-\u{1f64f}\u{1f680}-\u{1f6ff}\u{1f900}-\u{1f9ff}\u{20000}-\u{3fffd}]/u;

/** How long a line may be, and how fast it may be read. */
function styleOf(text) {
  const isUnspaced = 2 * count(text, UNSPACED_LETTER) > count(text, WORD);
  return isUnspaced ? { isUnspaced, width: 16, speed: 9 } : { isUnspaced, width: 42, speed: 20 };
}

function measure(style, text) {
  const letters = [...text];
  return style.isUnspaced ? letters.length : letters.reduce((sum, letter) => sum + (WIDE.test(letter) ? 2 : 1), 0);
}

function fits(style, line) {
  return measure(style, line.trim()) <= style.width;
}

/** The cues of speech and marks in the order of time, never two at a time: [{start, end, text}]. */
function makeCues(doc, marks) {
  const items = listItems(doc, marks);
  const crowded = findCrowded(items);
  const drafts = [];
  const begun = new Map(); // by voice, whose words stay in order whatever their times
  items.forEach((item, index) => {
    for (const draft of draftCues(item, crowded[index])) {
      draft.start = Math.max(draft.start, begun.get(item.voice) ?? 0);
      draft.end = Math.max(draft.end, draft.start);
      begun.set(item.voice, draft.start);
      drafts.push(draft);
    }
  });
  drafts.sort((one, other) => one.start - other.start);
  return setTimes(joinDrafts(drafts), doc.audio.duration_s);
}

function listItems(doc, marks) {
  const spoken = doc.segments.filter((segment) => segment.text); // a correction may have removed all words
  const items = spoken.map((segment) => ({
    start: segment.start_s,
    end: segment.end_s,
    text: segment.text,
    words: segment.words ?? [],
    voice: JSON.stringify([segment.track, segment.channel, segment.speaker]),
    isSpeech: true,
  }));
  const asItem = ({ start_s: start, end_s: end, text }) => ({ start, end, text, words: [], voice: "", isSpeech: false });
  items.push(...marks.filter(({ kind }) => kind !== "cut").map(asItem));
  items.sort((one, other) => one.start - other.start || one.end - other.end);
  const cuts = marks.filter(({ kind }) => kind === "cut").map(asItem);
  items.push(...cuts.map((item) => ({ ...item, start: Math.max(0, item.end - CUT_CUE) })));
  return items;
}

/** For each item whether another voice speaks at the same time. */
function findCrowded(items) {
  const crowded = items.map(() => false);
  items.forEach((item, at) => {
    for (let later = at + 1; later < items.length && items[later].start <= item.end - OVERLAP; later += 1) {
      const other = items[later];
      if (item.isSpeech && other.isSpeech && item.voice !== other.voice) crowded[at] = crowded[later] = true;
    }
  });
  return crowded;
}

/** Divide an item into drafts at the least cost (dynamic programming); those of crowded talk have one line. */
function draftCues(item, isCrowded) {
  const style = styleOf(item.text);
  if (isCrowded) style.width -= DASH.length;
  const ruler = makeRuler(atomsOf(item, style), style, isCrowded ? 1 : LINES);
  const { atoms } = ruler;
  const best = [[0, 0]];
  for (let stop = 1; stop <= atoms.length; stop += 1) {
    let [least, from] = [Infinity, 0];
    for (let start = stop - 1; start >= 0; start -= 1) {
      if (start < stop - 1 && !ruler.fits(start, stop)) break;
      const cost = best[start][0] + ruler.cost(start, stop);
      if (cost <= least) [least, from] = [cost, start];
    }
    best.push([least + ruler.breaks[stop], from]);
  }
  const cuts = [];
  for (let stop = atoms.length; stop > 0; stop = best[stop][1]) cuts.unshift([best[stop][1], stop]);
  return cuts.map(([start, stop]) => {
    const shown = atoms.slice(start, stop);
    const text = (wrap(shown, style, ruler.lines) ?? []).join("\n");
    return { start: shown[0].start, end: shown.at(-1).end, text, style, voice: item.voice, atoms: shown };
  });
}

function makeRuler(atoms, style, lines) {
  const widths = [0];
  for (const atom of atoms) widths.push(widths.at(-1) + measure(style, atom.text));
  const leads = atoms.map((atom) => (atom.text.startsWith(" ") ? 1 : 0));
  const breaks = Array.from({ length: atoms.length + 1 }, (_, at) => (at ? breakCost(atoms, at) : 0));
  return {
    atoms,
    lines,
    breaks,
    /** Whether atoms [start, stop) fit into one cue, each line filled as far as it goes. */
    fits(start, stop) {
      let at = start;
      for (let line = 0; line < lines; line += 1) {
        const limit = widths[at] + leads[at] + style.width;
        if (widths[stop] <= limit) return true;
        let next = at + 1;
        while (next <= stop && widths[next] <= limit) next += 1;
        at = next - 1;
      }
      return false;
    },
    /** What a cue costs that is short in time or in text, or too long in time. */
    cost(start, stop) {
      const filled = (widths[stop] - widths[start]) / (lines * style.width);
      const length = atoms[stop - 1].end - atoms[start].start;
      const cost = filled < 1 ? 1 - filled : 0;
      if (length < SHORTEST_CUE) return cost + 2 * (SHORTEST_CUE - length);
      return length > LONGEST_CUE ? cost + 0.25 * (length - LONGEST_CUE) : cost;
    },
  };
}

/** What stays on one line, with its times: those of the words where they are known. */
function atomsOf(item, style) {
  const tokens = tokensOf(item.text.trim().split(/\s+/).join(" "));
  const length = Math.max(item.end - item.start, SHORTEST_ITEM);
  const weights = [0];
  for (const token of tokens) weights.push(weights.at(-1) + weigh(token) + 0.5);
  const times = weights.map((weight) => item.start + (length * weight) / weights.at(-1));
  const atoms = [];
  tokens.forEach((token, at) => {
    let [start, end] = [times[at], times[at + 1]];
    const word = item.words.length === tokens.length ? item.words[at] : null;
    if (word && word.start_s !== null && word.end_s !== null) [start, end] = [word.start_s, word.end_s];
    const before = atoms.at(-1);
    if (before && isOne(before.text, token) && fits(style, before.text + token)) {
      atoms[atoms.length - 1] = { text: before.text + token, start: before.start, end };
    } else {
      atoms.push(...splitToken(token, style).map((text) => ({ text, start, end })));
    }
  });
  return atoms;
}

/** Whether a token stays on the line of what is before it. */
function isOne(before, token) {
  const [first] = token;
  if (NEVER_FIRST.has(first) || NEVER_LAST.has([...before].at(-1)) || /^\p{M}/u.test(first)) return true;
  return NUMBER.test(before) && NUMBER_GOES_ON.test(token.trim());
}

/** A word whole, or in parts where it is longer than a line. */
function splitToken(token, style) {
  const parts = [];
  let part = "";
  for (const letter of token) {
    if (part.trim() && !fits(style, part + letter)) {
      parts.push(part);
      part = "";
    }
    part += letter;
  }
  return [...parts, part];
}

/** The lines of a cue, the best of all ways to break them; null where it has too many. */
function wrap(atoms, style, lines) {
  const textOf = (part) => part.map(({ text }) => text).join("").trim();
  const whole = textOf(atoms);
  if (measure(style, whole) <= style.width) return [whole];
  if (lines === 1 || measure(style, whole) > lines * (style.width + 1)) return null;
  let [least, best] = [Infinity, null];
  for (let at = 1; at < atoms.length; at += 1) {
    const both = [textOf(atoms.slice(0, at)), textOf(atoms.slice(at))];
    if (!both.every((line) => fits(style, line))) continue;
    const cost = Math.abs(measure(style, both[0]) - measure(style, both[1])) / style.width + breakCost(atoms, at);
    if (cost < least) [least, best] = [cost, both];
  }
  return best;
}

/** What a break before atom `at` costs. */
function breakCost(atoms, at) {
  if (at === atoms.length || endsSentence(atoms[at - 1].text)) return 0;
  if (CLAUSE_END.test(atoms[at - 1].text)) return 0.3;
  return atoms[at].start - atoms[at - 1].end >= CLAUSE_PAUSE ? 0.4 : 1.2;
}

/** Join two voices at the same time, and cues that are too short with the next one of their voice. */
function joinDrafts(drafts) {
  const joined = [];
  for (const draft of drafts) {
    const last = joined.at(-1);
    const both = last && (joinVoices(last, draft) ?? joinShort(last, draft));
    if (both) joined[joined.length - 1] = both;
    else joined.push(draft);
  }
  return joined;
}

function joinVoices(first, second) {
  const isCrowded = first.atoms.length > 0 && first.voice !== second.voice && second.start < first.end - OVERLAP;
  if (!isCrowded || `${first.text}${second.text}`.includes("\n")) return null;
  const text = `${DASH}${first.text}\n${DASH}${second.text}`;
  return { ...first, end: Math.max(first.end, second.end), text, atoms: [] };
}

function joinShort(first, second) {
  const isShort = Math.min(first.end - first.start, second.end - second.start) < SHORTEST_CUE;
  const isNear = second.start - first.end < JOIN_PAUSE && second.end - first.start <= LONGEST_CUE;
  const isSameStyle = first.style.isUnspaced === second.style.isUnspaced && first.style.width === second.style.width;
  const isAlike = first.atoms.length > 0 && second.atoms.length > 0 && first.voice === second.voice && isSameStyle;
  if (!(isShort && isNear && isAlike)) return null;
  const space = first.style.isUnspaced ? "" : " ";
  const head = { ...second.atoms[0], text: `${space}${second.atoms[0].text.trim()}` };
  const atoms = [...first.atoms, head, ...second.atoms.slice(1)];
  const lines = wrap(atoms, first.style, LINES);
  return lines && { ...first, end: second.end, text: lines.join("\n"), atoms };
}

/** The cues; each is shown long enough to be read, as far as there is time until the next one. */
function setTimes(drafts, audioEnd) {
  let shown = 0;
  return drafts.map((draft, index) => {
    const wanted = Math.min(LONGEST_CUE, Math.max(SHORTEST_CUE, [...draft.text].length / draft.style.speed));
    let start = Math.max(draft.start, shown);
    let end = Math.min(Math.max(draft.end, start + wanted), start + LONGEST_CUE);
    const latest = index + 1 < drafts.length ? drafts[index + 1].start : Math.max(audioEnd, draft.end);
    if (end > latest) {
      // There is no more time after it; where that is too short, it begins a little early.
      start = Math.max(shown, Math.min(start, latest - SHORTEST_CUE));
      end = Math.max(latest, start + SHORTEST_ITEM);
    }
    shown = end;
    return { start, end, text: draft.text };
  });
}
