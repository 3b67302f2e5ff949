// The recording: where it is found, the position in it, and the timeline that shows the whole of it.

const SKIP = 5; // seconds
const WRONG_LENGTH = 0.02; // a recording whose length differs by more than this share is another one

/** Plays the recording or, if there is none, the clips in the page; without either it only keeps a position in the transcript. */
class Player {
  constructor(talk, audio) {
    this.talk = talk;
    this.audio = audio;
    this.isThere = false;
    this.isMissing = false; // it was searched for and not found
    this.clips = talk.page.clips ?? []; // pages of earlier versions have none
    this.clip = null; // the one that the audio element has
    this.at = 0;
    this.onMove = () => {};
    this.onState = () => {};
    this.onMissing = () => {};
    audio.preservesPitch = true;
    for (const event of ["play", "pause", "ended", "ratechange"]) audio.addEventListener(event, () => this.onState());
    audio.addEventListener("timeupdate", () => this.#follow());
    audio.addEventListener("seeked", () => this.#follow());
    audio.addEventListener("play", () => this.#run());
  }

  get isPlaying() {
    return (this.isThere || this.clip !== null) && !this.audio.paused;
  }

  /** Whether there is something to hear at the position. */
  get canPlay() {
    return this.isThere || this.#clipAt(this.at) !== undefined;
  }

  /** Try the places where the recording may be, one after the other. */
  async find() {
    for (const url of recordingPlaces(this.talk)) {
      if (!(await this.#load(url))) continue;
      if (this.#lengthFits()) {
        this.#begin();
        return;
      }
    }
    this.audio.removeAttribute("src");
    this.isMissing = true;
    this.onMissing();
  }

  /** Play a file that the reader has chosen; return what is wrong with it, "" if nothing is. */
  async choose(file) {
    const wasThere = this.isThere;
    this.isThere = false;
    this.clip = null;
    if (!(await this.#load(URL.createObjectURL(file)))) {
      this.audio.removeAttribute("src");
      this.isMissing = true;
      if (wasThere) this.onMissing();
      return `This browser cannot play ${file.name}.`;
    }
    this.#begin();
    if (this.#lengthFits()) return "";
    const [here, there] = [this.audio.duration, this.talk.duration].map((seconds) => formatTime(seconds, { hundredths: true }));
    return `${file.name} lasts ${here}, the transcript ${there}: it may be another recording.`;
  }

  seek(seconds) {
    this.at = Math.min(Math.max(0, seconds), this.talk.duration);
    if (this.isThere) this.audio.currentTime = this.at;
    else if (this.clip !== null) {
      if (this.clip === this.#clipAt(this.at)) this.audio.currentTime = this.at - this.clip.start_s;
      else this.audio.pause();
    }
    this.onMove();
  }

  /** Play from a position; return whether there is a recording to play. */
  playFrom(seconds) {
    this.seek(seconds);
    return this.play();
  }

  play() {
    if (!this.canPlay) return false;
    if (!this.isThere) this.#take(this.#clipAt(this.at));
    this.audio.play().catch(() => this.onState());
    return true;
  }

  pause() {
    this.audio.pause();
  }

  toggle() {
    if (!this.isPlaying) return this.play();
    this.pause();
    return true;
  }

  #clipAt(seconds) {
    return this.isMissing ? this.clips.find(({ start_s: start, end_s: end }) => start <= seconds && seconds < end) : undefined;
  }

  #take(clip) {
    if (this.clip !== clip) {
      this.clip = clip;
      this.audio.src = clip.data;
    }
    this.audio.currentTime = this.at - clip.start_s;
  }

  #begin() {
    this.isThere = true;
    this.audio.currentTime = this.at;
    this.onState();
  }

  #load(url) {
    return new Promise((resolve) => {
      const settle = (isLoaded) => {
        this.audio.onloadedmetadata = this.audio.onerror = null;
        resolve(isLoaded);
      };
      this.audio.onloadedmetadata = () => settle(true);
      this.audio.onerror = () => settle(false);
      this.audio.src = url;
    });
  }

  #lengthFits() {
    const { duration } = this.audio;
    return !Number.isFinite(duration) || Math.abs(duration - this.talk.duration) <= 2 + WRONG_LENGTH * this.talk.duration;
  }

  #follow() {
    if (this.audio.seeking || !(this.isThere || this.isPlaying)) return;
    this.at = this.audio.currentTime + (this.isThere ? 0 : this.clip.start_s);
    this.onMove();
  }

  /** Move with the screen while it plays: `timeupdate` comes only four times a second. */
  #run() {
    if (!this.isPlaying) return;
    this.#follow();
    requestAnimationFrame(() => this.#run());
  }
}

/**
 * Relative addresses of the listening copy and the recording. Documents and audio share the stem, which is that of this
 * page; a second recording of one name has the stem "talk.wav" and is called "talk.wav.wav" or "talk.wav".
 */
function recordingPlaces(talk) {
  const file = decodeURIComponent(location.pathname.split("/").at(-1));
  const stem = file.replace(/\.html?$/i, "").replace(/\.corrected$/, "");
  const { name } = talk.doc.source;
  const ending = name.includes(".", 1) ? name.slice(name.lastIndexOf(".")) : "";
  const names = [...new Set([stem + ending, stem, name])].filter((each) => each !== file);
  const copies = talk.page.listening_copies.map((ending) => `${stem}.${ending}`);
  const encode = (path) => path.split("/").map(encodeURIComponent).join("/");
  const originals = talk.page.audio_folders.flatMap((folder) => names.map((each) => `${folder}/${each}`));
  return [...copies.map((copy) => `./${copy}`), ...originals].map(encode);
}

/** Draws the waveform, who speaks, gaps and doubtful words, and lets the reader move in it. */
class Timeline {
  constructor(talk, player, element) {
    this.talk = talk;
    this.player = player;
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.played = element.querySelector(".played");
    this.doubts = [];
    new ResizeObserver(() => this.draw()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    element.setAttribute("aria-valuemax", talk.duration.toFixed(2));
    const move = (event) => {
      const box = element.getBoundingClientRect();
      player.seek(((event.clientX - box.left) / box.width) * talk.duration);
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      element.setPointerCapture(event.pointerId);
      move(event);
    });
    element.addEventListener("pointermove", (event) => {
      if (element.hasPointerCapture(event.pointerId)) move(event);
    });
  }

  /** Show the position. */
  move() {
    const share = this.talk.duration ? this.player.at / this.talk.duration : 0;
    this.played.style.width = `${100 * share}%`;
    this.element.setAttribute("aria-valuenow", this.player.at.toFixed(2));
    this.element.setAttribute("aria-valuetext", formatTime(this.player.at, { hundredths: true }));
  }

  draw() {
    const { canvas, talk } = this;
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !talk.duration) return;
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const color = (name) => getComputedStyle(this.element).getPropertyValue(name).trim();
    const x = (seconds) => (seconds / talk.duration) * width;
    const base = height - 8; // below it, who speaks
    for (const { mark, start, end } of talk.paragraphs) {
      if (mark?.kind !== "gap") continue;
      pen.fillStyle = color("--gap-wash");
      pen.fillRect(x(start), 0, Math.max(2, x(end) - x(start)), base);
    }
    pen.fillStyle = color("--wave");
    const bars = Math.floor(width / 3);
    const levels = this.#levels(bars);
    levels.forEach((level, bar) => {
      const size = Math.max(1, level * (base - 6));
      pen.fillRect(bar * 3, (base - size) / 2, 2, size);
    });
    for (const paragraph of talk.paragraphs) {
      pen.fillStyle = paragraph.mark ? color("--gap") : color(voiceColor(paragraph.voice));
      for (const piece of paragraph.mark ? [paragraph] : paragraph.pieces) {
        pen.fillRect(x(piece.start), height - 4, Math.max(1, x(piece.end) - x(piece.start) - 0.5), 3);
      }
    }
    pen.fillStyle = color("--doubt");
    for (const seconds of this.doubts) pen.fillRect(x(seconds) - 0.5, 0, 1.5, 4);
  }

  /** The level of each bar, 0 to 1; where it was not delivered, speech is a low line. */
  #levels(bars) {
    const levels = new Float32Array(bars);
    const { peaks } = this.talk.doc.audio;
    if (peaks?.length) {
      peaks.forEach((peak, index) => {
        const first = Math.min(bars - 1, Math.floor((index * bars) / peaks.length));
        const last = Math.max(first + 1, Math.floor(((index + 1) * bars) / peaks.length));
        for (let bar = first; bar < last && bar < bars; bar += 1) levels[bar] = Math.max(levels[bar], peak);
      });
      return levels;
    }
    for (const { start, end, mark } of this.talk.paragraphs) {
      if (mark) continue;
      const first = Math.floor((start / this.talk.duration) * bars);
      for (let bar = first; bar < Math.ceil((end / this.talk.duration) * bars) && bar < bars; bar += 1) levels[bar] = 0.12;
    }
    return levels;
  }
}

function voiceColor(voice) {
  return voice == null ? "--wave" : `--voice-${voice % 8}`;
}
