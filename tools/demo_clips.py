"""Clips for training and evaluation: utterances joined, cut, degraded, and turned into log-mel features.

A clip imitates what the daemon hands to the model: a piece of a high-passed recording whose peak was brought to
-3 dBFS, cut at pauses or, in long speech, in mid-word; some came through a telephone or a lossy codec.
"""

import random
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from demo_speech import (
    SAMPLE_RATE_HZ,
    Espeak,
    Utterance,
    Vocabulary,
    random_text,
    random_variant,
    random_voice,
    voice_names,
)
from scipy.signal import butter, lfilter
from transformers.audio_utils import mel_filter_bank

Samples = npt.NDArray[np.float32]

MAX_CLIP_S: Final = 30.0
_N_FFT: Final = 400
_HOP: Final = 160
_MIN_SAMPLES: Final = 8_000
_FRAMES_PER_WINDOW: Final = 100
_N_BINS: Final = _N_FFT // 2 + 1
_BIN_HZ: Final = np.arange(_N_BINS) * SAMPLE_RATE_HZ / _N_FFT
_NOISE_S: Final = 40
_EXCERPT_SHARE: Final = 0.2  # of the utterances of a clip: a phrase that was said before
_MOST_WARP: Final = 0.2
_WARPS: Final = np.linspace(1 - _MOST_WARP, 1 + _MOST_WARP, 17)


@dataclass(frozen=True, slots=True)
class Clip:
    """One model input.

    ``samples`` is float32, shape (n_samples,), 16 kHz; word i is spoken from ``times[i][0]`` to ``times[i][1]``
    (samples); ``response`` is a power response, shape (201,), applied to the spectrum; ``warp`` stretches the frequency
    axis, as the vocal tract of another speaker does (training only).
    """

    samples: Samples
    words: tuple[str, ...]
    times: tuple[tuple[int, int], ...]
    response: Samples
    warp: float = 1.0


class SpeechPool:
    """Utterances kept in memory in sessions of one voice; ``renew`` replaces the oldest session."""

    def __init__(self, vocabulary: Vocabulary, rng: random.Random, speech_s: float, *, held_out: bool) -> None:
        self._vocabulary, self._rng, self._held_out = vocabulary, rng, held_out
        self._speaker, self._voices = Espeak(), voice_names(vocabulary, held_out=held_out)
        self._sessions: deque[list[Utterance]] = deque()
        made_s = 0.0
        while made_s < speech_s:
            session = self._new_session()
            made_s += sum(len(u.samples) for u in session) / SAMPLE_RATE_HZ
            self._sessions.append(session)

    def renew(self) -> None:
        """Replace the oldest session with a new one."""
        self._sessions.append(self._new_session())
        self._sessions.popleft()

    def _new_session(self) -> list[Utterance]:
        # Wider in training, so that voices that were never heard lie within the range of those that were.
        most_stretch = 0.05 if self._held_out else 0.1
        voices = self._voices
        if not self._held_out and self._rng.random() < 0.5:  # a voice that espeak-ng does not have
            variant = self._speaker.learn(random_variant(self._rng))
            voices = [f"{accent}+{variant}" for accent in self._vocabulary.accents]
        voice = random_voice(self._rng, voices, most_stretch=most_stretch)
        session = []
        for _ in range(10):
            low, high = self._rng.choices(((1, 3), (4, 9), (10, 20), (21, 90)), (35, 35, 20, 10))[0]
            text = random_text(self._rng, self._vocabulary, self._rng.randint(low, high), held_out=self._held_out)
            session.append(self._speaker.say(text, voice))
        return session

    def session(self) -> list[Utterance]:
        """Return the utterances of one voice, in random order; the list is the caller's own."""
        session = self._sessions[self._rng.randrange(len(self._sessions))]
        return self._rng.sample(session, len(session))


class Sessions(Protocol):
    """A source of speech for clips."""

    def session(self) -> list[Utterance]:
        """Return the utterances of one voice, in random order; the list is the caller's own."""


class RecordedPool:
    """Utterances that ``demo_voices.py`` wrote into a folder: one folder for each voice, one file for each session.

    Files that have been read stay in memory.

    Args:
        voices: those to use, None for all that are there.

    Raises:
        ValueError: one has no speech.
    """

    def __init__(self, folder: Path, rng: random.Random, voices: Sequence[str] | None = None) -> None:
        self._rng = rng
        names = sorted(entry.name for entry in folder.iterdir()) if voices is None else voices
        self._folders = [folder / name for name in names]
        self._files = self._listed()
        self._read: dict[Path, list[Utterance]] = {}

    def _listed(self) -> list[list[Path]]:
        files = [sorted(folder.glob("*.npz")) for folder in self._folders]
        for folder, found in zip(self._folders, files, strict=True):
            if not found:
                raise ValueError(f"no speech in {folder}: make some with tools/demo_voices.py")
        return files

    def renew(self) -> None:
        """Include the sessions added to the folder since."""
        self._files = self._listed()

    def session(self) -> list[Utterance]:
        """Return the utterances of one session, in random order; each voice is as likely as the others."""
        path = self._rng.choice(self._rng.choice(self._files))
        if path not in self._read:
            self._read[path] = self._load(path)
        session = self._read[path]
        return self._rng.sample(session, len(session))

    @staticmethod
    def _load(path: Path) -> list[Utterance]:
        with np.load(path) as arrays:
            samples = np.split(arrays["samples"], np.cumsum(arrays["lengths"])[:-1])
            texts, borders, at = arrays["texts"].tolist(), arrays["borders"].tolist(), 0
        session = []
        for piece, text in zip(samples, texts, strict=True):
            words = tuple(text.split())
            session.append(Utterance(piece, words, tuple(borders[at : at + len(words) + 1])))
            at += len(words) + 1
        return session


class MixedPool:
    """Speech of espeak-ng and, in ``share`` of the sessions, of natural voices."""

    def __init__(self, espeak: SpeechPool, natural: RecordedPool, share: float, rng: random.Random) -> None:
        self._espeak, self._natural, self._share, self._rng = espeak, natural, share, rng

    def session(self) -> list[Utterance]:
        """Return the utterances of one voice, in random order; the list is the caller's own."""
        pool: Sessions = self._natural if self._rng.random() < self._share else self._espeak
        return pool.session()


class NoiseBank:
    """Office noises of 40 s each: air conditioning, fans, mains hum, keyboards, hiss; raw and high-passed at 80 Hz."""

    def __init__(self, seed: int, n_noises: int = 48) -> None:
        rng = np.random.default_rng(seed)
        self._noises = [_office_noise(rng, i) for i in range(n_noises)]

    def draw(self, rng: random.Random, n_samples: int) -> Samples:
        """Return ``n_samples`` of one noise, of mean power 1."""
        noise = rng.choice(self._noises)
        start = rng.randrange(len(noise) - n_samples)
        piece = noise[start : start + n_samples]
        return piece / np.float32(np.sqrt(np.mean(piece**2)) + 1e-9)


def coloured_noise(rng: np.random.Generator, n_samples: int, slope: float) -> Samples:
    """Make noise whose power falls with frequency to the power ``slope`` (0 white, 1 pink, 2 brown), of power 1."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    hz = np.maximum(np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE_HZ), 20.0)
    noise = np.fft.irfft(spectrum * hz ** (-slope / 2), n_samples)
    return np.asarray(noise / noise.std(), np.float32)


def hum(rng: np.random.Generator, n_samples: int) -> Samples:
    """Make mains hum: 50 or 60 Hz and harmonics that fall off, of power 1."""
    t = np.arange(n_samples) / SAMPLE_RATE_HZ
    base = rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002)
    sound = np.zeros(n_samples)
    for harmonic in range(1, int(rng.integers(3, 16))):
        sound += rng.uniform(0.2, 1.0) / harmonic**1.2 * np.sin(2 * np.pi * base * harmonic * t + rng.uniform(0, 6.28))
    return np.asarray(sound / sound.std(), np.float32)


def clicks(rng: np.random.Generator, n_samples: int, per_s: float) -> Samples:
    """Make short decaying bursts, as of a keyboard or a pen, ``per_s`` of them a second; peak about 1."""
    sound = np.zeros(n_samples, np.float32)
    for _ in range(rng.poisson(per_s * n_samples / SAMPLE_RATE_HZ)):
        length = int(rng.integers(80, 800))
        start = int(rng.integers(0, max(1, n_samples - length)))
        burst = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 5)) * rng.uniform(0.2, 1.0)
        sound[start : start + length] += burst[: n_samples - start].astype(np.float32)
    return sound


def highpass(samples: Samples) -> Samples:
    """Filter as the daemon's front end does: 80 Hz, second order."""
    b, a = butter(2, 80, "highpass", fs=SAMPLE_RATE_HZ)
    return np.asarray(lfilter(b, a, samples), np.float32)


def _office_noise(rng: np.random.Generator, kind: int) -> Samples:
    n = _NOISE_S * SAMPLE_RATE_HZ
    noise = coloured_noise(rng, n, rng.uniform(0.0, 2.2))
    if kind % 3 == 0:
        noise = noise + np.float32(rng.uniform(0.3, 3.0)) * hum(rng, n)
    if kind % 4 == 1:
        noise = noise * np.float32(rng.uniform(0.1, 1.0)) + clicks(rng, n, rng.uniform(1.0, 8.0)) * np.float32(
            rng.uniform(2.0, 10.0)
        )
    if kind % 5 == 2:
        noise = noise * (1 + 0.7 * np.sin(2 * np.pi * rng.uniform(0.2, 6.0) * np.arange(n) / SAMPLE_RATE_HZ)).astype(
            np.float32
        )
    return highpass(noise) if kind % 2 else noise


def _tones(rng: np.random.Generator, n: int) -> Samples:
    """Make beeps, chords, sweeps or arpeggios."""
    t = np.arange(n) / SAMPLE_RATE_HZ
    sound = np.zeros(n)
    kind = rng.integers(0, 4)
    if kind == 0:  # a sustained chord
        for _ in range(int(rng.integers(1, 5))):
            sound += rng.uniform(0.2, 1) * np.sin(2 * np.pi * rng.uniform(80, 4000) * t)
    elif kind == 1:  # a sweep
        low, high = rng.uniform(60, 500), rng.uniform(600, 5000)
        sound = np.sin(2 * np.pi * (low * t + (high - low) * t**2 / (2 * max(t[-1], 0.1))))
    else:  # a sequence of beeps; with harmonics, a melody
        step = int(rng.uniform(0.08, 0.8) * SAMPLE_RATE_HZ)
        for start in range(0, n, step):
            piece = t[start : start + step]
            frequency = rng.choice([0.0, rng.uniform(100, 2500)], p=[0.3, 0.7])
            for harmonic in range(1, int(rng.integers(2, 8)) if kind == 3 else 2):
                sound[start : start + step] += np.sin(2 * np.pi * frequency * harmonic * piece) / harmonic
    return np.asarray(sound, np.float32)


def _with_peak(samples: Samples, peak_dbfs: float) -> Samples:
    peak = float(np.abs(samples).max(initial=0.0))
    return samples * np.float32(10 ** (peak_dbfs / 20) / peak) if peak > 0 else samples


def _response(rng: random.Random) -> Samples:
    """Draw a power response (201,): high-pass of the front end, tilt of a microphone, sometimes a telephone band."""
    power = np.ones(_N_BINS)
    if rng.random() < 0.7:
        power *= 1 / (1 + (80 / np.maximum(_BIN_HZ, 1.0)) ** 4)
    if rng.random() < 0.5:
        points = [rng.uniform(-6, 6) for _ in range(5)]
        power *= 10 ** (np.interp(_BIN_HZ, [0, 300, 1000, 3000, 8000], points) / 10)
    if rng.random() < 0.15:
        power[rng.uniform(3400, 4000) < _BIN_HZ] = 0.0
        if rng.random() < 0.5:
            power *= 1 / (1 + (rng.uniform(150, 300) / np.maximum(_BIN_HZ, 1.0)) ** 4)
    if rng.random() < 0.1:  # roughness of a lossy codec
        power *= np.exp(0.4 * np.random.default_rng(rng.getrandbits(32)).standard_normal(_N_BINS))
    return power.astype(np.float32)


def _dip(rng: random.Random) -> Samples:
    """Draw a power response (201,) that weakens a band by up to 25 dB: some voices almost lack a formant."""
    centre, octaves = rng.uniform(np.log2(300), np.log2(5000)), rng.uniform(0.15, 0.6)
    distance = (np.log2(np.maximum(_BIN_HZ, 1.0)) - centre) / octaves
    return np.asarray(10 ** (-rng.uniform(0.5, 2.5) * np.exp(-0.5 * distance**2)), np.float32)


_Spoken = list[tuple[str, tuple[int, int]]]  # each word with its first and last sample


def _excerpt(rng: random.Random, utterance: Utterance) -> Utterance:
    """Cut 1 to 4 words out of an utterance."""
    n_words = len(utterance.words)
    first = rng.randrange(n_words)
    last = min(n_words, first + rng.randint(1, 4))
    borders = utterance.borders[first : last + 1]
    samples = utterance.samples[borders[0] : borders[-1]]
    return Utterance(samples, utterance.words[first:last], tuple(border - borders[0] for border in borders))


def _timeline(
    rng: random.Random, pool: Sessions, n_samples: int, *, may_cut: bool, excerpts: float
) -> tuple[Samples, _Spoken]:
    """Join utterances and pauses; with ``may_cut`` the last utterance may exceed the end.

    ``excerpts`` is the share of those that are words said before in the clip: a model that looks for its place by the
    last words alone loses it where they come again, which happens in talk far more often than in random sentences.
    """
    sound = np.zeros(n_samples, np.float32)
    spoken: _Spoken = []
    session: list[Utterance] = []
    said: list[Utterance] = []
    at, misfits = 0, 0
    while at < n_samples and misfits < 12:
        if not session or rng.random() < 0.2:  # change the voice
            session = pool.session()
        utterance = _excerpt(rng, rng.choice(said)) if said and excerpts and rng.random() < excerpts else session.pop()
        n = len(utterance.samples)
        if n > n_samples - at and not may_cut:
            misfits += 1
            continue
        piece = utterance.samples[: n_samples - at].astype(np.float32)
        gain = 10 ** (-rng.uniform(0, 6) / 20) / max(1.0, np.abs(piece).max())
        sound[at : at + len(piece)] = piece * np.float32(gain)
        borders = zip(utterance.borders[:-1], utterance.borders[1:], strict=True)
        spoken += [(word, (at + b, at + e)) for word, (b, e) in zip(utterance.words, borders, strict=True)]
        said.append(utterance)
        at += n + int(rng.choice((rng.uniform(0.03, 0.3), rng.uniform(0.3, 2.0))) * SAMPLE_RATE_HZ)
    return sound, spoken


def _speech(
    rng: random.Random, pool: Sessions, n_samples: int, cut_share: float, excerpts: float
) -> tuple[Samples, _Spoken]:
    """Make at most ``n_samples`` of speech: whole utterances between short silences, or an excerpt cut in mid-word."""
    if rng.random() < cut_share:  # cut at both ends, or at the end alone
        skip = rng.choice((0, rng.randrange(3 * SAMPLE_RATE_HZ)))
        sound, spoken = _timeline(rng, pool, n_samples + skip, may_cut=True, excerpts=excerpts)
        end = n_samples + skip
        kept = [(word, (b - skip, e - skip)) for word, (b, e) in spoken if min(e, end) - max(b, skip) > (e - b) / 2]
        return sound[skip:], kept
    lead = int(min(rng.uniform(0, 0.5), n_samples / SAMPLE_RATE_HZ * 0.2) * SAMPLE_RATE_HZ)
    sound, spoken = _timeline(rng, pool, n_samples - lead, may_cut=False, excerpts=excerpts)
    end = (spoken[-1][1][1] if spoken else 0) + int(rng.uniform(0, 0.5) * SAMPLE_RATE_HZ)
    later = [(word, (b + lead, e + lead)) for word, (b, e) in spoken]
    return np.concatenate([np.zeros(lead, np.float32), sound[: max(end, 1)]]), later


class ClipMaker:
    """Makes clips, with speech and without, from a pool of utterances and a bank of noises.

    Args:
        varied: add variations that imitate voices never heard, for training.
    """

    def __init__(self, rng: random.Random, pool: Sessions, noises: NoiseBank, *, varied: bool = False) -> None:
        self._rng, self._pool, self._noises, self._varied = rng, pool, noises, varied

    def speech(self, seconds: tuple[float, float], snr_db: tuple[float, float] | None, cut_share: float = 0.3) -> Clip:
        """Make a clip of speech that lasts ``seconds`` (least, most), with noise at a random ratio from ``snr_db``.

        ``cut_share`` of the clips begin or end in mid-word; of a word cut in two, the side with its larger part has it.
        """
        rng = self._rng
        while True:
            n_most = int(rng.uniform(*seconds) * SAMPLE_RATE_HZ)
            sound, spoken = _speech(rng, self._pool, n_most, cut_share, _EXCERPT_SHARE * self._varied)
            if spoken and len(sound) >= min(seconds[0], 0.5) * SAMPLE_RATE_HZ:
                break
        if snr_db is not None:
            voiced = sound[sound != 0]
            level = np.float32(np.sqrt(np.mean(voiced**2)) * 10 ** (-rng.uniform(*snr_db) / 20))
            sound = sound + self._noises.draw(rng, len(sound)) * level
        words, times = tuple(word for word, _ in spoken), tuple(time for _, time in spoken)
        warp = 1 + rng.uniform(-_MOST_WARP, _MOST_WARP) * rng.choice((0, 1)) * self._varied
        sound, response = _with_peak(sound, -rng.uniform(3, 28)), _response(rng)
        if self._varied and rng.random() < 0.3:
            response = response * _dip(rng)
        return Clip(sound, words, times, response, warp)

    def not_speech(self, seconds: float) -> Clip:
        """Make a clip without speech: silence, room noise, hum, tones, clicks, or a mixture, at any level."""
        rng = self._rng
        n = int(seconds * SAMPLE_RATE_HZ)
        generator = np.random.default_rng(rng.getrandbits(32))
        kind = rng.choice(("silence", "noise", "noise", "hum", "tones", "tones", "clicks"))
        sound = np.zeros(n, np.float32)
        if kind == "noise":
            sound = self._noises.draw(rng, n)
        elif kind == "hum":
            sound = hum(generator, n)
        elif kind == "tones":
            sound = _tones(generator, n)
        elif kind == "clicks":
            sound = clicks(generator, n, rng.uniform(0.3, 8.0))
        if kind != "silence" and rng.random() < 0.6:
            sound = sound + self._noises.draw(rng, n) * np.float32(10 ** rng.uniform(-2.5, 0) * (sound.std() + 1e-3))
        if rng.random() < 0.3:
            fade = np.interp(
                np.arange(n),
                [0, n * rng.uniform(0, 0.5), n * rng.uniform(0.5, 1), n],
                [rng.random(), 1, 1, rng.random()],
            )
            sound = sound * fade.astype(np.float32)
        if rng.random() < 0.7:
            sound = highpass(sound)
        # Room noise of a quiet recording arrives far below full scale, but alone in a file it is raised to -3 dBFS too.
        return Clip(_with_peak(sound, rng.uniform(-60, -3)), (), (), _response(rng))


class WarpedLogMel:
    """The features of ``Qwen3ASRFeatureExtractor``, with each clip's response applied."""

    def __init__(self) -> None:
        # A bank built for another sample rate warps the frequency axis (vocal tract length perturbation).
        def bank(warp: float) -> npt.NDArray[np.float64]:
            rate_hz = round(SAMPLE_RATE_HZ * warp)
            filters = mel_filter_bank(_N_BINS, 128, 0.0, 8000.0, rate_hz, norm="slaney", mel_scale="slaney")
            return np.asarray(filters.T, np.float64)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warped bank has filters without a bin, which stay at zero
            banks = [bank(warp) for warp in _WARPS]
        self._filters = torch.from_numpy(np.stack(banks)).float()
        self._window = torch.hann_window(_N_FFT)

    def __call__(self, clips: Sequence[Clip]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (n_clips, 128, n_frames) and the number of frames of each clip (n_clips,)."""
        lengths = [max(len(c.samples), _MIN_SAMPLES) for c in clips]
        longest = max(lengths)
        waveforms = torch.zeros(len(clips), longest)
        for row, clip in enumerate(clips):
            waveforms[row, : len(clip.samples)] = torch.from_numpy(clip.samples)
        spectrum = torch.stft(waveforms, _N_FFT, _HOP, window=self._window, return_complex=True)[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square()  # four times as fast as abs().square()
        power *= torch.from_numpy(np.stack([c.response for c in clips]))[:, :, None]
        nearest = [int(np.abs(_WARPS - clip.warp).argmin()) for clip in clips]
        log = (self._filters[nearest] @ power).clamp_(min=1e-10).log10_()
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - 8.0)
        features = (log + 4.0) / 4.0
        n_frames = features.shape[-1]
        # The extractor takes every 160th sample of the sample mask, one fewer where the longest is not a multiple.
        frames = torch.tensor([min(-(-n // _HOP), n_frames) for n in lengths])
        return torch.nn.functional.pad(features, (0, -n_frames % _FRAMES_PER_WINDOW)), frames
