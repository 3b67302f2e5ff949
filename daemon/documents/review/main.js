// The page: builds the parts and connects them.

const source = document.documentElement.cloneNode(true); // as delivered, for "save this page"
const talk = new Talk(JSON.parse($("transcript").textContent), JSON.parse($("page").textContent));
talk.source = source;
const player = new Player(talk, $("audio"));
const timeline = new Timeline(talk, player, $("timeline"));
const view = new TextView(talk, player);
const search = new Search(talk, view);
const memory = new Memory(talk);
let isUnsaved = false;
let doubts = [];

document.documentElement.classList.add("live");

// Messages: for everyone on the page, and for screen readers, which read a live region aloud.

let silence = 0;
function say(text, button = null) {
  clearTimeout(silence);
  $("message").replaceChildren(text, ...(button ? [" ", button] : []));
  $("message").hidden = !text;
  if (text && !button) silence = setTimeout(() => say(""), 8000);
}

// The player.

player.onMove = () => {
  $("now").textContent = formatTime(player.at, { hundredths: true });
  $("play").disabled = !player.canPlay;
  timeline.move();
  view.follow();
};
player.onState = () => {
  document.documentElement.classList.toggle("playing", player.isPlaying);
  $("play").setAttribute("aria-label", player.isPlaying ? "Pause" : "Play");
  $("missing").hidden = player.isThere;
  document.documentElement.classList.toggle("silent", player.isMissing && !player.isThere);
  $("play").disabled = !player.canPlay;
  for (const id of ["back", "forward", "speed"]) $(id).disabled = !player.isThere;
};
player.onMissing = () => {
  $("missing").hidden = false;
  $("clips").hidden = !player.clips.length;
  view.showClips(player.clips);
  player.onState();
};
$("length").textContent = formatTime(talk.duration, { hundredths: true });
$("play").addEventListener("click", () => player.toggle());
$("back").addEventListener("click", () => player.seek(player.at - SKIP));
$("forward").addEventListener("click", () => player.seek(player.at + SKIP));
$("speed").addEventListener("change", () => {
  player.audio.playbackRate = player.audio.defaultPlaybackRate = Number($("speed").value);
});
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) say(await player.choose(file));
});

function changeSpeed(by) {
  const { options, selectedIndex } = $("speed");
  $("speed").selectedIndex = Math.min(Math.max(0, selectedIndex + by), options.length - 1);
  $("speed").dispatchEvent(new Event("change"));
  say(`Speed ${$("speed").value}`);
}

// Voices: a list at the top; a name is changed where it is read, and changes everywhere.

function showVoices() {
  const items = talk.voices.map((voice, index) => {
    const button = make("button", { type: "button", className: "who", textContent: voice.name, title: "Rename" });
    button.setAttribute("aria-label", `Rename ${voice.name}`);
    button.dir = "auto";
    button.style.color = `var(${voiceColor(index)})`;
    button.addEventListener("click", () => rename(button, index));
    return make("li", {}, button);
  });
  $("voices").replaceChildren(...items);
  $("voices").hidden = $("name-hint").hidden = !items.length;
}

function rename(button, index) {
  const voice = talk.voices[index];
  const field = make("input", { type: "text", value: voice.name, className: "who", size: Math.max(8, voice.name.length + 1) });
  field.setAttribute("aria-label", `New name for ${voice.name}`);
  field.dir = "auto";
  let isOpen = true;
  const close = (isKept) => {
    if (!isOpen) return;
    isOpen = false;
    field.replaceWith(button);
    button.focus({ preventScroll: true });
    if (isKept && talk.rename(voice, field.value)) afterChange({ voice });
  };
  field.addEventListener("keydown", (event) => {
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    event.stopPropagation();
    close(event.key === "Enter");
  });
  field.addEventListener("blur", () => document.hasFocus() && close(true));
  button.replaceWith(field);
  field.focus();
  field.select();
}
view.onRename = rename;

// Corrections.

function afterChange(change) {
  if (change?.voice) {
    view.nameVoices();
    showVoices();
  }
  isUnsaved = talk.isChanged;
  const isKept = memory.keep();
  if (!isKept && isUnsaved) say("This browser keeps no unsaved corrections: save a copy before you close the page.");
  showState();
}

function showState() {
  $("undo").disabled = !talk.done.length;
  $("redo").disabled = !talk.undone.length;
  $("forget-item").hidden = !isUnsaved;
  $("unsaved").textContent = isUnsaved ? "Unsaved" : "";
  doubts = view.doubts();
  timeline.doubts = doubts.map(({ time }) => time);
  timeline.draw();
  $("doubts").textContent = doubts.length === 1 ? "1 doubtful word" : `${doubts.length.toLocaleString("en")} doubtful words`;
  $("next-doubt").disabled = $("previous-doubt").disabled = !doubts.length;
  if ($("search").value) search.find($("search").value);
}

view.onEdited = () => afterChange(null);
view.onPaint = () => search.mark();

function takeBack(change) {
  if (!change) return;
  if (change.paragraph) {
    view.refresh(change.paragraph);
    view.show(view.rows[change.paragraph.index]);
  }
  afterChange(change);
}
$("undo").addEventListener("click", () => takeBack(talk.undo()));
$("redo").addEventListener("click", () => takeBack(talk.redo()));

function refreshAll() {
  for (const row of view.rows) if (row.paragraph.isTouched) view.refresh(row.paragraph);
  view.nameVoices();
  showVoices();
}

$("forget").addEventListener("click", () => {
  memory.forget();
  talk.reset();
  refreshAll();
  isUnsaved = false;
  showState();
  say("The corrections are forgotten; this is the delivered text.");
});

// Doubtful words.

let chosen = null;
function goToDoubt(by) {
  if (!doubts.length) {
    say("No words are below this confidence.");
    return;
  }
  const from = chosen !== null && Math.abs(chosen - player.at) < 0.01 ? chosen : player.at;
  const next = by > 0 ? doubts.find(({ time }) => time > from + 0.01) : doubts.findLast(({ time }) => time < from - 0.01);
  const doubt = next ?? (by > 0 ? doubts[0] : doubts.at(-1));
  chosen = doubt.time;
  player.seek(doubt.time);
  view.showWord(doubt.row, doubt.index);
}
$("next-doubt").addEventListener("click", () => goToDoubt(1));
$("previous-doubt").addEventListener("click", () => goToDoubt(-1));
$("threshold").addEventListener("input", () => {
  view.setThreshold(Number($("threshold").value) / 100);
  $("threshold-value").textContent = `${$("threshold").value}% sure`;
  showState();
});

// Search.

function showMatches() {
  const { matches, at } = search;
  if (!search.pattern) $("matches").textContent = "";
  else if (at < 0) $("matches").textContent = matches.length ? `${matches.length}` : "none";
  else $("matches").textContent = `${at + 1} of ${matches.length}`;
}
$("search").addEventListener("input", () => {
  search.find($("search").value);
  search.go(1);
  showMatches();
});
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    search.go(event.shiftKey ? -1 : 1);
    showMatches();
  } else if (event.key === "Escape") {
    $("search").value = "";
    search.find("");
    showMatches();
    $("search").blur();
  }
});

// Copy and save.

async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", { value: text, className: "unseen" });
    document.body.append(field);
    field.select();
    document.execCommand("copy"); // the only way on a page that comes over http
    field.remove();
  }
  say(`Copied as ${name}.`);
}

function save(format) {
  const [, type, write] = SAVED_FORMATS[format];
  const mark = talk.isChanged || talk.doc.corrected_at ? ".corrected" : "";
  const link = make("a", { download: `${talk.page.title}${mark}.${format}` });
  link.href = URL.createObjectURL(new Blob([write(talk)], { type }));
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  memory.forget();
  isUnsaved = false;
  showState();
  const isWhole = format === "html" || format === "json"; // has everything needed to correct it later
  say(`Saved as ${link.download} in your downloads.${isWhole || !mark ? "" : " To continue another day, save this page (.html) as well."}`);
}

for (const [format, [name]] of Object.entries(SAVED_FORMATS)) {
  const button = make("button", { type: "button", textContent: `${name} ` }, make("small", { textContent: `.${format}` }));
  button.addEventListener("click", () => save(format));
  $("forget-item").before(make("li", {}, button));
}
$("copy-text").addEventListener("click", () => copy(writeTxt(talk), "plain text"));
$("copy-markdown").addEventListener("click", () => copy(writeMarkdown(talk), "Markdown"));

const menus = [...document.querySelectorAll("details.menu")];
function closeMenus(except = null) {
  for (const menu of menus) if (menu !== except) menu.open = false;
}
document.addEventListener("click", (event) => {
  const menu = event.target.closest("details.menu");
  closeMenus(event.target.closest("button") ? null : menu);
});

// The keyboard.

const KEYS = {
  " ": () => player.toggle() || say(player.clips.length ? "The page has no audio for this passage. Choose the file of the recording, or a time marked ▶." : "The recording is not here. Choose its file to listen."),
  ArrowLeft: () => player.seek(player.at - SKIP),
  ArrowRight: () => player.seek(player.at + SKIP),
  ArrowUp: () => view.step(-1),
  ArrowDown: () => view.step(1),
  Enter: () => view.edit(view.current.row),
};
const LETTER_KEYS = {
  n: () => goToDoubt(1),
  p: () => goToDoubt(-1),
  e: () => view.edit(view.current.row),
  "/": () => $("search").focus(),
  "<": () => changeSpeed(-1),
  ">": () => changeSpeed(1),
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || $("help").open) return;
  const isTyping = event.target.matches("input:not([type=range]), textarea, select");
  const isControl = event.target.matches("button, summary, input, a, select");
  const hasCommand = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") closeMenus();
  else if (hasCommand && !isTyping && event.key.toLowerCase() === "z") takeBack(event.shiftKey ? talk.redo() : talk.undo());
  else if (hasCommand && !isTyping && event.key.toLowerCase() === "y") takeBack(talk.redo());
  else if (hasCommand && event.key.toLowerCase() === "s") $("save").querySelector("summary").click();
  else if (hasCommand && event.key.toLowerCase() === "f") $("search").select();
  else if (isTyping || hasCommand || event.altKey) return;
  else if (event.key in KEYS && !(isControl && (event.key === " " || event.key === "Enter")) && event.target.type !== "range") {
    KEYS[event.key]();
  } else if (event.key in LETTER_KEYS && $("letters").checked) LETTER_KEYS[event.key]();
  else return;
  event.preventDefault();
});
$("show-help").addEventListener("click", () => $("help").showModal());

addEventListener("beforeunload", (event) => {
  if (isUnsaved && memory.isBroken) event.preventDefault();
});

// Start.

const restoredAt = memory.load();
if (restoredAt !== null) {
  talk.done = [];
  isUnsaved = true;
  refreshAll();
  const when = new Date(restoredAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  say(`Your unsaved corrections of ${when} are back.`);
}
$("hint").hidden = !talk.doc.segments.length;
showVoices();
showState();
player.onState();
$("missing").hidden = true;
player.onMove();
player.find();
