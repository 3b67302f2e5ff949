// Words as scribed cuts and joins them: the rules of daemon/text. tests/documents compares the results.

const UNSPACED_LETTERS =
  "\\u0e00-\\u0e7f\\u3041-\\u30ff\\u31f0-\\u31ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\uff66-\\uff9f\\u{20000}-\\u{2ebef}";
const UNSPACED = `${UNSPACED_LETTERS}\\u3000-\\u3040\\uff00-\\uff65`;
const TOKEN = new RegExp(`\\s*(?:[${UNSPACED}]|[^\\s${UNSPACED}]+)`, "gu");
const IS_UNSPACED = new RegExp(`^[${UNSPACED}]`, "u");
const UNSPACED_LETTER = new RegExp(`[${UNSPACED_LETTERS}]`, "gu");
const WORD = new RegExp(`[${UNSPACED_LETTERS}]|(?:(?![${UNSPACED_LETTERS}])[\\p{L}\\p{N}])+`, "gu");
const CLOSERS = "\"'”’»)]）」』】〉》";
const END_MARKS = ".!?…。！？؟۔।॥";
const SENTENCE_END = new RegExp(`([${END_MARKS}]+)[${CLOSERS.replace("]", "\\]")}]*$`, "u");
const NO_SENTENCE_END = new RegExp(
  "^(?:[^\\p{L}\\p{N}_]*(?:\\p{L}|\\d{1,2}|\\S*\\p{L}\\.\\p{L}+|" +
    "dr|mr|mrs|ms|prof|st|vs|no|nr|bzw|ca|sog|evtl|ggf|vgl|bspw|inkl|sra|sr|mme|mlle)\\.)$",
  "iu",
);
const SYLLABLE = /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2ebef}\p{Nd}]/gu;
const HALF_SYLLABLE = /[\u3041-\u30ff\u31f0-\u31ff\uac00-\ud7af]/gu;
const LETTER = /[\p{L}\p{N}]/gu;
const LETTERS_PER_SYLLABLE = 3;

function count(text, pattern) {
  return text.match(pattern)?.length ?? 0;
}

/** Cut a text into words and single characters of scripts without spaces, each with the space before it. */
function tokensOf(text) {
  return text.match(TOKEN) ?? [];
}

/** Whether two texts, neither empty, are written without a space between them. */
function isTight(before, after) {
  return IS_UNSPACED.test([...before].at(-1)) && IS_UNSPACED.test(after);
}

/** Join texts with the spacing of their language. */
function joinTexts(texts) {
  const parts = [];
  let before = "";
  for (const text of texts.map((each) => each.trim())) {
    if (!text) continue;
    if (before && !isTight(before.slice(-2), text)) parts.push(" ");
    parts.push(text);
    before = text;
  }
  return parts.join("");
}

/** About how long a text takes to say, in letters of an alphabet. */
function weigh(text) {
  const syllables = count(text, SYLLABLE);
  const halves = count(text, HALF_SYLLABLE);
  return count(text, LETTER) - syllables - halves + LETTERS_PER_SYLLABLE * (syllables + halves / 2);
}

/** Whether a text ends with the end of a sentence. */
function endsSentence(text) {
  const trimmed = text.trimEnd();
  if (!trimmed || /[\p{L}\p{N}]$/u.test(trimmed)) return false;
  const found = SENTENCE_END.exec([...trimmed].slice(-8).join(""));
  if (!found) return false;
  return found[1] !== "." || !NO_SENTENCE_END.test(trimmed.split(/\s+/).at(-1));
}

/** Times in documents: 00:12:34, as in the other documents of scribed. */
function clock(seconds) {
  const whole = Math.floor(seconds);
  return [whole / 3600, (whole / 60) % 60, whole % 60].map((part) => String(Math.floor(part)).padStart(2, "0")).join(":");
}

/**
 * Pair the tokens of two versions of a text: [index before, index after] of those that stay, in order.
 * The longest common subsequence; a change too large for it counts as one replacement.
 */
function pairTokens(before, after) {
  const pairs = [];
  let first = 0;
  while (first < before.length && first < after.length && before[first] === after[first]) {
    pairs.push([first, first]);
    first += 1;
  }
  let rest = 0;
  const most = Math.min(before.length, after.length) - first;
  while (rest < most && before.at(-1 - rest) === after.at(-1 - rest)) rest += 1;
  const [rows, columns] = [before.length - first - rest, after.length - first - rest];
  if (rows * columns < 4e6) {
    const width = columns + 1;
    const longest = new Uint16Array((rows + 1) * width);
    for (let row = rows - 1; row >= 0; row -= 1) {
      for (let column = columns - 1; column >= 0; column -= 1) {
        const at = row * width + column;
        longest[at] =
          before[first + row] === after[first + column]
            ? longest[at + width + 1] + 1
            : Math.max(longest[at + width], longest[at + 1]);
      }
    }
    for (let row = 0, column = 0; row < rows && column < columns; ) {
      const at = row * width + column;
      if (before[first + row] === after[first + column]) pairs.push([first + row++, first + column++]);
      else if (longest[at + width] >= longest[at + 1]) row += 1;
      else column += 1;
    }
  }
  for (let back = rest; back > 0; back -= 1) pairs.push([before.length - back, after.length - back]);
  return pairs;
}
