// The page: its buttons and messages.

const meter = new Meter($("wave"), $("level"));
let store = null;
let list = null;
let stream = null;
let capture = null;
let wakeLock = null;

function say(text, isBad = false) {
  $("message").textContent = text;
  $("message").hidden = !text;
  $("message").classList.toggle("bad", isBad);
}
meter.onWarning = (text) => say(text, true);

/** Why this page cannot record here; "" where it can. */
function whatIsMissing() {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    return "Browsers allow the microphone only on pages opened from a file or from an https address. Save this page to your computer and open the saved file.";
  }
  if (!window.MediaRecorder || !TYPES.some((type) => MediaRecorder.isTypeSupported(type))) {
    return "This browser cannot record. Use a current Firefox, Chrome, Edge or Safari.";
  }
  return "";
}

async function openStream() {
  if (stream) return true;
  try {
    stream = await openMicrophone($("microphone").value || (await store.setting("microphone")));
  } catch (error) {
    say(explainMicrophone(error), true);
    return false;
  }
  say("");
  meter.start(stream);
  await showMicrophones();
  return true;
}

function closeStream() {
  meter.stop();
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
}

/** Browsers reveal the names of microphones only after access to one was granted. */
async function showMicrophones() {
  const all = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind, label }) => kind === "audioinput" && label);
  const used = stream?.getAudioTracks()[0].getSettings().deviceId ?? $("microphone").value;
  $("microphone").replaceChildren(...all.map(({ deviceId, label }) => make("option", { value: deviceId, textContent: label })));
  $("microphone").value = used;
  $("choice").hidden = all.length < 2;
}

function show() {
  const isPaused = capture?.isPaused ?? false;
  document.documentElement.classList.toggle("paused", isPaused);
  $("record").hidden = $("try").hidden = Boolean(capture);
  $("pause").hidden = $("stop").hidden = !capture;
  $("pause").textContent = isPaused ? "Resume" : "Pause";
  $("try").textContent = stream && !capture ? "Stop the test" : "Test the microphone";
  $("microphone").disabled = Boolean(capture);
  meter.isDrawing = Boolean(capture) && !isPaused;
  showTime();
}

function showTime() {
  const time = formatTime(capture?.seconds ?? 0);
  if (capture || !stream) $("time").textContent = time;
  document.title = capture ? `${capture.isPaused ? "❚❚" : "●"} ${time}` : "Record";
}

/** Keep the screen on: a phone that goes to sleep would stop the recording. */
async function stayAwake() {
  if (capture && document.visibilityState === "visible") {
    wakeLock = await navigator.wakeLock?.request("screen").catch(() => null);
  }
}

async function record() {
  $("record").disabled = true;
  try {
    if (!(await openStream())) return;
    const started = new Capture(store, stream);
    started.onEnd = (reason) => end(started, reason);
    meter.clear();
    await started.start();
    capture = started;
    say("");
    stayAwake();
    show();
    $("pause").focus();
  } catch (error) {
    closeStream();
    say(`Recording could not be started. Reload this page and try again. The browser reports: ${error.message || error.name}`, true);
  } finally {
    $("record").disabled = false;
    show();
  }
}

async function end({ facts }, reason) {
  capture = null;
  wakeLock?.release();
  closeStream();
  meter.clear();
  await list.refresh();
  show();
  list.focus(facts.id);
  say(reason ?? "", true);
}

$("record").addEventListener("click", record);
$("pause").addEventListener("click", () => {
  if (capture.isPaused) capture.resume();
  else capture.pause();
  show();
});
$("stop").addEventListener("click", () => {
  $("stop").hidden = $("pause").hidden = true;
  capture.stop();
});
$("try").addEventListener("click", async () => {
  if (stream) closeStream();
  else if (await openStream()) say("Speak: the level bar moves if this microphone works. Nothing is recorded yet.");
  show();
});
$("microphone").addEventListener("change", async () => {
  await store.set("microphone", $("microphone").value).catch(() => {});
  if (!stream) return;
  closeStream();
  await openStream();
  show();
});
$("other-folder").addEventListener("click", async () => {
  try {
    list.folder = (await chooseFolder(store)) ?? list.folder;
    await list.refresh();
  } catch (error) {
    say(error.message, true);
  }
});
setInterval(showTime, 200);
addEventListener("beforeunload", (event) => {
  if (capture || store?.unstored.size) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") {
    stayAwake();
    list?.refresh();
  }
});

// Start.

async function start() {
  $(CAN_WRITE ? "with-folder" : "without-folder").hidden = false;
  const missing = whatIsMissing();
  if (missing) throw new Error(missing);
  try {
    store = await Store.open();
  } catch {
    throw new Error("This browser does not let the page store data, so a recording could be lost. Leave private browsing, or allow the page to store data.");
  }
  list = new RecordingList(store, $("list"));
  list.say = say;
  list.folder = CAN_WRITE ? ((await store.setting("inbox").catch(() => null)) ?? null) : null;
  const interrupted = await list.refresh();
  if (interrupted.length) say("A recording was interrupted. The part recorded until then is listed below.");
  $("desk").hidden = false;
  show();
}
start().catch((error) => {
  $("unable").textContent = error.message;
  $("unable").hidden = false;
});
