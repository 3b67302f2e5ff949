// The microphone, and a recording in progress.

const PIECE = 1000; // milliseconds; a crash loses at most this much
const BITS_PER_SECOND = 96_000;
// The first that the browser has: Opus where possible, AAC in older Safari.
const TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];

/** The file name extension for the type of a recording. */
function endingOf(type) {
  return /webm/.test(type) ? "webm" : /ogg/.test(type) ? "ogg" : "m4a";
}

/** Open the microphone without echo cancellation and noise suppression, because scribed cleans the audio itself. */
async function openMicrophone(deviceId) {
  const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: deviceId ? { ...audio, deviceId: { exact: deviceId } } : audio });
  } catch (error) {
    if (!deviceId || error.name !== "OverconstrainedError") throw error;
    return navigator.mediaDevices.getUserMedia({ audio }); // it has been unplugged
  }
}

/** The message for an error of the microphone. */
function explainMicrophone(error) {
  if (error.name === "NotAllowedError") {
    return "The browser was not allowed to use the microphone. Click the icon next to the address, allow the microphone, then press Record again.";
  }
  if (error.name === "NotFoundError") return "No microphone was found. Connect one, then press Record again.";
  if (error.name === "NotReadableError") return "The microphone is in use by another program. Close that program, then press Record again.";
  return `The microphone cannot be used. Choose or connect another one, then press Record again. The browser reports: ${error.message || error.name}`;
}

/** The name of the lock held during a recording, so that other tabs do not take it for an interrupted one. */
const lockOf = (id) => `scribed-recorder:${id}`;

/** A recording in progress. Its pieces are written one at a time, in order. */
class Capture {
  constructor(store, stream) {
    this.store = store;
    this.stream = stream;
    this.recorder = new MediaRecorder(stream, {
      mimeType: TYPES.find((type) => MediaRecorder.isTypeSupported(type)),
      audioBitsPerSecond: BITS_PER_SECOND,
    });
    this.passed = 0; // milliseconds before the last pause
    this.since = null;
    this.facts = null;
    this.work = Promise.resolve();
    this.isFull = false;
    this.onEnd = () => {}; // called with the reason; null if the user stopped it
    this.reason = null;
  }

  get seconds() {
    return (this.passed + (this.since === null ? 0 : performance.now() - this.since)) / 1000;
  }

  get isPaused() {
    return this.recorder.state === "paused";
  }

  /** Begin. The recording exists from here on, even if the browser crashes before the first piece. */
  async start() {
    const now = new Date();
    this.facts = {
      id: crypto.randomUUID(),
      name: nameFor(now),
      type: this.recorder.mimeType,
      startedAt: now.getTime(),
      state: "recording",
      seconds: 0,
      bytes: 0,
      pieces: 0,
    };
    await new Promise((held) => {
      this.lock = navigator.locks.request(lockOf(this.facts.id), () => {
        held();
        return new Promise((release) => (this.release = release));
      });
    });
    try {
      await this.store.write(this.facts);
    } catch (error) {
      this.release();
      throw error;
    }
    this.recorder.ondataavailable = ({ data }) => this.#take(data, this.seconds);
    this.recorder.onstop = () => this.#end();
    this.recorder.onerror = ({ error }) => this.stop(`The browser stopped recording. The part recorded until then is kept below. The browser reports: ${error?.message ?? "unknown error"}`);
    for (const track of this.stream.getAudioTracks()) {
      track.addEventListener("ended", () => this.stop("The microphone was disconnected. The part recorded until then is kept below."));
    }
    this.recorder.start(PIECE);
    this.since = performance.now();
  }

  pause() {
    this.passed += performance.now() - this.since;
    this.since = null;
    this.recorder.pause();
    this.recorder.requestData(); // a pause can be long; save what was recorded before it now
  }

  resume() {
    this.recorder.resume();
    this.since = performance.now();
  }

  /** Stop; `onEnd` is called when everything is saved. */
  stop(reason = null) {
    this.reason ??= reason;
    if (this.since !== null) this.passed += performance.now() - this.since;
    this.since = null;
    if (this.recorder.state !== "inactive") this.recorder.stop();
  }

  #take(blob, seconds) {
    this.work = this.work.then(async () => {
      if (!blob.size) return;
      const data = await blob.arrayBuffer();
      const { pieces, bytes } = this.facts;
      try {
        if (this.isFull) throw new Error("storage full");
        const facts = { ...this.facts, seconds, pieces: pieces + 1, bytes: bytes + blob.size };
        await this.store.write(facts, data);
        this.facts = facts;
      } catch {
        this.isFull = true;
        this.store.hold(this.facts, data);
        this.stop("The browser's storage is full, so recording has stopped. Everything recorded until now is kept: save it before you close this page.");
      }
    });
  }

  async #end() {
    await this.work;
    this.facts = { ...this.facts, state: "done", seconds: this.seconds };
    try {
      await this.store.write(this.facts);
    } catch {
      // No room even for this: the page will show it as interrupted when it is opened again.
    }
    this.release();
    await this.lock;
    this.onEnd(this.reason);
  }
}

/** The default name of a recording: its date and time, so that names sort by time. */
function nameFor(date) {
  const two = (number) => String(number).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `Recording ${day} ${two(date.getHours())}.${two(date.getMinutes())}`;
}
