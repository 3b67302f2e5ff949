// The documents that the page saves. tests/documents compares them with those of daemon/documents.

const SAVED_FORMATS = {
  docx: ["Word", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", writeDocx],
  txt: ["Text", "text/plain", writeTxt],
  md: ["Markdown", "text/markdown", writeMarkdown],
  srt: ["Subtitles (SRT)", "application/x-subrip", writeSrt],
  vtt: ["Subtitles (WebVTT)", "text/vtt", writeVtt],
  html: ["This page", "text/html", writeHtml],
  json: ["JSON", "application/json", writeJson],
};

/** The paragraphs that have any text, marks among them: [{paragraph, text, name, stamp}]. */
function writtenParagraphs(talk) {
  return talk.paragraphs
    .map((paragraph) => ({
      paragraph,
      text: talk.textOf(paragraph),
      name: talk.nameOf(paragraph),
      stamp: talk.page.has_timestamps && paragraph.mark?.kind !== "cut" ? `[${clock(paragraph.start)}]` : "",
    }))
    .filter(({ text }) => text);
}

/** Who speaks, in the order of their first words. */
function voicesOf(talk) {
  const spoken = talk.paragraphs.filter((paragraph) => talk.textOf(paragraph));
  return [...new Set(spoken.map((paragraph) => talk.nameOf(paragraph)).filter(Boolean))];
}

function writeTxt(talk) {
  const lines = writtenParagraphs(talk).map(({ text, name, stamp }) =>
    [stamp, name && `${name}:`, text].filter(Boolean).join(" "),
  );
  return lines.length ? `${lines.join("\n\n")}\n` : "";
}

function writeMarkdown(talk) {
  const { doc, page } = talk;
  const head = {
    title: page.title,
    date: doc.source.modified_at,
    duration: clock(talk.duration),
    language: doc.language,
    speakers: voicesOf(talk),
    complete: doc.complete,
  };
  const front = Object.entries(head).map(([key, value]) => `${key}: ${toYaml(value)}\n`);
  const paragraphs = writtenParagraphs(talk).map(({ paragraph, text, name, stamp }) => {
    const words = escapeMarkdown(text);
    return [stamp && `\`${stamp}\``, name && `**${escapeMarkdown(name)}:**`, paragraph.mark ? `*${words}*` : words]
      .filter(Boolean)
      .join(" ");
  });
  return `${[`---\n${front.join("")}---`, `# ${escapeMarkdown(page.title)}`, ...paragraphs].join("\n\n")}\n`;
}

function toYaml(value) {
  const text = Array.isArray(value) ? `[${value.map((each) => JSON.stringify(each)).join(", ")}]` : JSON.stringify(value);
  return text.replace(
    /[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function escapeMarkdown(text) {
  const oneLine = text.trim().replace(/\s+/g, " ");
  return oneLine.replace(/[\\`*_[\]<>&~|$]/g, "\\$&").replace(/^(\d*)([.)#+=:-])/, "$1\\$2");
}

function writeSrt(talk) {
  return makeCues(talk.document(), talk.page.marks)
    .map(({ start, end, text }, index) => `${index + 1}\n${stamp(start, ",")} --> ${stamp(end, ",")}\n${text}\n`)
    .join("\n");
}

function writeVtt(talk) {
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const blocks = makeCues(talk.document(), talk.page.marks).map(
    ({ start, end, text }) => `${stamp(start, ".")} --> ${stamp(end, ".")}\n${escape(text)}\n`,
  );
  return ["WEBVTT\n", ...blocks].join("\n");
}

function stamp(seconds, point) {
  const ms = Math.round(seconds * 1000);
  return `${clock(ms / 1000)}${point}${String(ms % 1000).padStart(3, "0")}`;
}

function writeJson(talk) {
  return `${JSON.stringify(talk.document(), null, 2)}\n`;
}

/** This page as it was delivered, with the corrected transcript in it. */
function writeHtml(talk) {
  const copy = talk.source.cloneNode(true);
  const fill = (id, value) => {
    // Escaped, because a text may contain the end of a script element.
    copy.querySelector(`#${id}`).textContent = JSON.stringify(value).replace(/</g, "\\u003c");
  };
  fill("transcript", talk.document());
  const voices = talk.voices.map(({ given, ...voice }) => voice);
  fill("page", { ...talk.page, voices, paragraphs: layOut(talk) });
  copy.querySelector("noscript").textContent = writtenParagraphs(talk)
    .map(({ text, name }) => `<p dir="auto">${name ? `<b>${escapeXml(name)}:</b> ` : ""}${escapeXml(text)}</p>`)
    .join("\n");
  return `<!doctype html>\n${copy.outerHTML}\n`;
}

/** Where each paragraph begins and ends in the corrected segments. */
function layOut(talk) {
  const spans = new Map();
  for (const pieces of talk.piecesOf) {
    const whole = pieces.map((piece) => piece.lead + spell(piece.tokens)).join("");
    const lead = whole.length - whole.trimStart().length;
    let at = 0;
    for (const piece of pieces) {
      const from = Math.max(0, at - lead);
      at += piece.lead.length + spell(piece.tokens).length;
      spans.set(piece, [piece.segment, from, Math.max(0, at - lead), piece.start, piece.end]);
    }
  }
  return talk.paragraphs.map((paragraph) =>
    paragraph.mark
      ? talk.page.paragraphs[paragraph.index]
      : { voice: paragraph.voice, pieces: paragraph.pieces.map((piece) => spans.get(piece)) },
  );
}

const NOT_XML = /[^\t\n\r\x20-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu;

function escapeXml(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;" };
  return text.replace(NOT_XML, "\ufffd").replace(/[&<>"']/g, (letter) => names[letter]);
}

/** Fill the templates of daemon/documents/docx_parts.py, in which {{ and }} are braces. */
function fillIn(template, values) {
  return template.replace(/\{\{|\}\}|\{(\w+)\}/g, (found, name) => (name ? values[name] : found[0]));
}

function isRtl(text) {
  const found = /\p{L}/u.exec(text);
  return found !== null && /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/u.test(found[0]);
}

/** The Word document: title, facts and paragraphs, with a comment on each gap and each doubtful word. */
function writeDocx(talk) {
  const { doc, page } = talk;
  const parts = page.docx;
  const comments = [];
  const run = (text, look = "") => (text ? fillIn(parts.RUN, { look, text: escapeXml(text) }) : "");
  const comment = (runs, text) => {
    comments.push(text);
    return fillIn(parts.COMMENTED, { number: comments.length - 1, runs });
  };
  const block = (style, runs, rtl = false) => fillIn(parts.PARAGRAPH, { style, bidi: rtl ? "<w:bidi/>" : "", runs });
  const facts = {
    Date: doc.source.modified_at.slice(0, 10),
    Duration: clock(talk.duration),
    Language: doc.language ?? "",
    Speakers: voicesOf(talk).join(", "),
  };
  const body = [block("Title", run(page.title), isRtl(page.title))];
  for (const [name, value] of Object.entries(facts)) if (value) body.push(block("Facts", run(`${name}: `) + run(value)));
  for (const { paragraph, text, name, stamp: time } of writtenParagraphs(talk)) {
    const rtl = isRtl(text);
    const head =
      run(time && `${time} `, '<w:color w:val="666666"/>') +
      run(name && `${name}: `, `<w:b/><w:bCs/>${isRtl(name) ? "<w:rtl/>" : ""}`);
    if (paragraph.mark) {
      const note =
        paragraph.mark.kind === "cut"
          ? "The rest of the recording could not be read."
          : `There is speech here that is not in the text. Listen from ${clock(paragraph.start)}.`;
      body.push(block("Gap", head + comment(run(text), note)));
    } else {
      body.push(block("Normal", head + wordRuns(talk, paragraph, rtl ? "<w:rtl/>" : "", run, comment), rtl));
    }
  }
  const at = escapeXml(doc.processing.finished_at);
  const written = comments.map((text, number) => fillIn(parts.COMMENT, { number, at, text: escapeXml(text) }));
  return zip({
    "[Content_Types].xml": parts.CONTENT_TYPES,
    "_rels/.rels": parts.PACKAGE_RELATIONS,
    "docProps/core.xml": fillIn(parts.CORE, { title: escapeXml(page.title), at }),
    "word/_rels/document.xml.rels": parts.DOCUMENT_RELATIONS,
    "word/document.xml": fillIn(parts.DOCUMENT, { body: body.join("") }),
    "word/styles.xml": parts.STYLES,
    "word/comments.xml": fillIn(parts.COMMENTS, { comments: written.join("") }),
  });
}

/** The runs of a paragraph; doubtful words that follow one another share a comment. */
function wordRuns(talk, paragraph, look, run, comment) {
  const runs = [];
  const isDoubtful = ({ token }) => (token.word?.confidence ?? 1) < talk.page.doubtful;
  const shown = talk.tokensOf(paragraph);
  for (let from = 0, to = 0; from < shown.length; from = to) {
    const doubt = isDoubtful(shown[from]);
    while (to < shown.length && isDoubtful(shown[to]) === doubt) to += 1;
    const group = shown.slice(from, to);
    const text = group.map((each) => each.text).join("");
    if (!doubt) {
      runs.push(run(text, look));
      continue;
    }
    const lowest = Math.min(...group.map(({ token }) => token.word.confidence));
    const start = group.map(({ token }) => token.word.start_s).find((seconds) => seconds !== null) ?? group[0].piece.start;
    const note = `Not sure (${describeDoubt(talk.doc, lowest)}). Listen at ${clock(start)}.`;
    const words = text.trimStart();
    runs.push(run(text.slice(0, text.length - words.length), look), comment(run(words, look), note));
  }
  return runs.join("");
}

/** A confidence in words: the model's own, or the share of such words that a measurement found right. */
function describeDoubt(doc, confidence) {
  const percent = `${Math.round(confidence * 100)}%`;
  if (!doc.calibration) return `confidence ${percent}`;
  return `by the measurement of ${doc.calibration.fitted_at.slice(0, 10)}, ${percent} of such words are right`;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** A zip archive of texts (APPNOTE 6.3), stored without compression, as bytes. */
function zip(files) {
  const encoder = new TextEncoder();
  const date = 0x21; // 1 January 1980, the first possible
  const [locals, entries] = [[], []];
  let offset = 0;
  for (const [name, text] of Object.entries(files)) {
    const [path, data] = [encoder.encode(name), encoder.encode(text)];
    let crc = 0xffffffff;
    for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
    const common = [[20, 2], [0x800, 2], [0, 2], [0, 2], [date, 2], [~crc >>> 0, 4], [data.length, 4], [data.length, 4], [path.length, 2], [0, 2]];
    const local = pack([[0x04034b50, 4], ...common]);
    locals.push(local, path, data);
    entries.push(pack([[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]), path);
    offset += local.length + path.length + data.length;
  }
  const size = entries.reduce((sum, part) => sum + part.length, 0);
  const number = Object.keys(files).length;
  const end = pack([[0x06054b50, 4], [0, 2], [0, 2], [number, 2], [number, 2], [size, 4], [offset, 4], [0, 2]]);
  return new Blob([...locals, ...entries, end]);
}

/** Little-endian numbers of given sizes in bytes. */
function pack(fields) {
  return Uint8Array.from(fields.flatMap(([value, size]) => Array.from({ length: size }, (_, at) => (value >>> (8 * at)) & 0xff)));
}
