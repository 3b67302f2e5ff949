// The level of the microphone: the current level, the last minute as a waveform, and warnings.

const TICK = 50; // milliseconds
const QUIETEST = -60; // dBFS, the left end of the meter
const LOUD = -1; // dBFS
const BAR = 3; // pixels
const BARS_PER_SECOND = 10;
const SILENT_AFTER = 6; // seconds

class Meter {
  constructor(canvas, gauge) {
    this.canvas = canvas;
    this.gauge = gauge;
    this.isDrawing = false; // whether levels go into the waveform
    this.onWarning = () => {};
    this.bars = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Follow a stream until `stop`. */
  start(stream) {
    this.context = new AudioContext();
    this.analyser = new AnalyserNode(this.context, { fftSize: 4096 });
    this.context.createMediaStreamSource(stream).connect(this.analyser);
    this.samples = new Float32Array(this.analyser.fftSize);
    this.ticks = 0;
    this.peak = 0;
    this.heardAt = performance.now();
    this.loud = 0;
    this.warning = "";
    this.timer = setInterval(() => this.#tick(), TICK);
  }

  stop() {
    clearInterval(this.timer);
    this.context?.close();
    this.context = null;
    this.#show(0, false);
  }

  clear() {
    this.bars = [];
    this.draw();
  }

  #tick() {
    this.analyser.getFloatTimeDomainData(this.samples);
    const peak = this.samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    const level = 20 * Math.log10(peak || 1e-9);
    this.#show(Math.max(0, 1 - level / QUIETEST), level > LOUD);
    this.#warn(level);
    this.peak = Math.max(this.peak, peak);
    this.ticks += 1;
    if (this.ticks % (1000 / TICK / BARS_PER_SECOND)) return;
    if (this.isDrawing) {
      this.bars.push(Math.max(0, 1 - (20 * Math.log10(this.peak || 1e-9)) / QUIETEST));
      this.bars = this.bars.slice(-1000);
      this.draw();
    }
    this.peak = 0;
  }

  /** Warn about silence and overload, once each time they begin. */
  #warn(level) {
    const now = performance.now();
    if (level > QUIETEST) this.heardAt = now;
    this.loud = level > LOUD ? this.loud + 1 : Math.max(0, this.loud - 0.02);
    let warning = "";
    if (now - this.heardAt > 1000 * SILENT_AFTER) warning = "There is no sound from the microphone. Check that it is switched on, or choose another one.";
    else if (this.loud > 5) warning = "The microphone is too loud. Move away from it, or lower its volume.";
    if (warning !== this.warning) this.onWarning(warning);
    this.warning = warning;
  }

  #show(share, isLoud) {
    const percent = Math.round(100 * Math.min(1, share));
    this.gauge.setAttribute("aria-valuenow", percent);
    this.gauge.classList.toggle("loud", isLoud);
    this.gauge.firstElementChild.style.width = `${percent}%`;
  }

  draw() {
    const { canvas } = this;
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width) return;
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const color = (name) => getComputedStyle(canvas).getPropertyValue(name).trim();
    pen.fillStyle = color("--line");
    pen.fillRect(0, height / 2, width, 1);
    pen.fillStyle = color("--wave");
    const shown = this.bars.slice(-Math.floor(width / BAR));
    shown.forEach((level, bar) => {
      const size = Math.max(1, level * (height - 2));
      pen.fillRect(bar * BAR, (height - size) / 2, BAR - 1, size);
    });
  }
}
