"""How well the demo model hears: texts and voices that training never used, noise, and sound without speech."""

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from demo_clips import Clip, ClipMaker, NoiseBank, RecordedPool, Sessions, SpeechPool
from demo_speech import SAMPLE_RATE_HZ, Vocabulary
from transformers import Qwen3ASRForConditionalGeneration
from transformers.models.qwen3_asr.processing_qwen3_asr import Qwen3ASRProcessor

LENGTHS_S: Final = ((0.5, 2.0), (2.0, 8.0), (8.0, 16.0), (16.0, 30.0))
_CLIPS: Final = (80, 60, 40, 30)  # of each length in the table
_VOICE_CLIPS: Final = (24, 16, 8, 5)  # the same, of each natural voice
_SNR_DB: Final = 15.0
_EVALUATION_SEED: Final = 20_000  # apart from the seeds of training, which count up from --seed


def as_heard(clip: Clip) -> npt.NDArray[np.float32]:
    """Return the clip's samples with its response applied in the time domain, for the real feature extractor."""
    spectrum = np.fft.rfft(clip.samples)
    gain = np.sqrt(np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, len(clip.response)), clip.response))
    return np.asarray(np.fft.irfft(spectrum * gain, len(clip.samples)), np.float32)


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Count the word substitutions, insertions and deletions between two texts (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


class Listener:
    """Transcribes clips through the public interface: processor, greedy ``generate``, parsed answer."""

    def __init__(self, model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor) -> None:
        self._model, self._processor = model, processor
        self.n_endless, self.n_unknown = 0, 0

    @torch.inference_mode()
    def texts(
        self, clips: Sequence[Clip], language: str | None = None, prompts: Sequence[str] | None = None, batch: int = 16
    ) -> list[str]:
        """Return the text of each clip; an answer that never ended is marked, so that it counts as wrong."""
        heard = []
        for start in range(0, len(clips), batch):
            some = [as_heard(clip) for clip in clips[start : start + batch]]
            prompt = list(prompts[start : start + batch]) if prompts else None
            inputs = self._processor.apply_transcription_request(audio=some, language=language, prompt=prompt)
            inputs["input_features"] = inputs["input_features"].to(self._model.dtype)
            tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=200)[
                :, inputs["input_ids"].shape[1] :
            ]
            ended = (tokens == self._processor.tokenizer.eos_token_id).any(1)
            self.n_endless += int((~ended).sum())
            self.n_unknown += int((tokens == self._processor.tokenizer.unk_token_id).any(1).sum())
            parsed = self._processor.decode(tokens, return_format="transcription_only")
            heard += [text if end else f"{text} (no end)" for text, end in zip(parsed, ended.tolist(), strict=True)]
        return heard


@functools.cache
def _noises() -> NoiseBank:
    return NoiseBank(_EVALUATION_SEED)


class HeldOut:
    """Clips for evaluation: texts and voices kept out of training, seeded, the same on each call.

    Args:
        natural: the folder of a natural voice, None for the speech of espeak-ng.
    """

    def __init__(self, vocabulary: Vocabulary, *, speech_s: float = 4000.0, natural: Path | None = None) -> None:
        self.rng = random.Random(_EVALUATION_SEED)
        pool: Sessions
        if natural is None:
            pool = SpeechPool(vocabulary, self.rng, speech_s, held_out=True)
        else:
            pool = RecordedPool(natural.parent, self.rng, [natural.name])
        self._maker = ClipMaker(self.rng, pool, _noises())

    def speech(
        self, n_clips: int, seconds: tuple[float, float], snr_db: float | None = None, cut_share: float = 0.0
    ) -> list[Clip]:
        """Return clips of speech, clean or with office noise at ``snr_db``."""
        snr = None if snr_db is None else (snr_db, snr_db)
        return [self._maker.speech(seconds, snr, cut_share) for _ in range(n_clips)]

    def not_speech(self, n_clips: int) -> list[Clip]:
        """Return clips of 0.5 to 30 s without speech."""
        lengths = [self.rng.choice((1, 5, 30)) * self.rng.uniform(0.5, 1) for _ in range(n_clips)]
        return [self._maker.not_speech(seconds) for seconds in lengths]

    def hotwords(self, clips: Sequence[Clip], words: Sequence[str]) -> list[str]:
        """Return a context for each clip: some words it holds, some it does not, some unknown to the model."""
        contexts = []
        for clip in clips:
            some = [
                *self.rng.choices(clip.words, k=3),
                *self.rng.choices(words, k=6),
                "Kubernetes",
                "Rossi",
                "Abteilung",
            ]
            contexts.append(", ".join(self.rng.sample(some, self.rng.randint(1, len(some)))))
        return contexts


def held_out_voices(folder: Path, vocabulary: Vocabulary) -> dict[str, HeldOut]:
    """Return the clips of each natural voice in the folder that ``demo_voices.py --held-out`` has written."""
    voices = sorted(entry for entry in (folder / "held-out").iterdir() if any(entry.glob("*.npz")))
    return {voice.name: HeldOut(vocabulary, natural=voice) for voice in voices}


def word_error_rate(clips: Sequence[Clip], texts: Sequence[str]) -> float:
    """Return errors per spoken word over all clips."""
    errors = sum(word_errors(clip.words, text.split()) for clip, text in zip(clips, texts, strict=True))
    return errors / sum(len(clip.words) for clip in clips)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was heard, how much of it, and the result in per cent or as a count."""

    what: str
    n_clips: int
    minutes: float
    n_words: int
    result: str

    def __str__(self) -> str:
        """Return the line in Markdown."""
        return f"| {self.what} | {self.n_clips} | {self.minutes:.1f} | {self.n_words} | {self.result} |"


def _row(what: str, clips: Sequence[Clip], texts: Sequence[str]) -> Row:
    minutes = sum(len(clip.samples) for clip in clips) / SAMPLE_RATE_HZ / 60
    n_words = sum(len(clip.words) for clip in clips)
    if n_words:
        return Row(what, len(clips), minutes, n_words, f"{100 * word_error_rate(clips, texts):.2f} %")
    return Row(what, len(clips), minutes, 0, f"{sum(not text for text in texts)} of {len(clips)} without words")


def _rows_by_length(listener: Listener, sets: Sequence[Sequence[Clip]], what: str) -> Iterator[Row]:
    everything, texts = [clip for clips in sets for clip in clips], []
    for (low, high), clips in zip(LENGTHS_S, sets, strict=True):
        heard = listener.texts(clips)
        texts += heard
        yield _row(f"{what}, {low:g} to {high:g} s", clips, heard)
    yield _row(f"**{what}, all**", everything, texts)


def table(folder: Path, vocabulary: Vocabulary, dtype: torch.dtype, voices: Path | None = None) -> Iterator[str]:
    """Yield the lines of the evaluation tables of an exported model, in Markdown.

    Args:
        folder: of the model.
        vocabulary: the words it knows.
        dtype: what to compute in; bfloat16 is measured beside float32.
        voices: folder of natural voices, as ``demo_voices.py`` wrote them: adds a table with a row for each voice.
    """
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    model = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    listener = Listener(model, processor)
    name = str(dtype).removeprefix("torch.")
    yield "| what | clips | minutes | words | word error, or clips without words |"
    yield "|---|---|---|---|---|"
    yield from map(str, _espeak_rows(listener, vocabulary, name))
    if dtype is not torch.float32:
        exact = Listener(
            Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval(), processor
        )
        clean = [clip for clips in _clean_clips(HeldOut(vocabulary)) for clip in clips]
        yield str(_row("clean, computed in float32, all", clean, exact.texts(clean)))
    if voices is not None:
        yield ""
        yield from voice_table(listener, vocabulary, voices)
    yield ""
    yield f"Answers that did not end: {listener.n_endless}; with an unknown word: {listener.n_unknown}."


def _clean_clips(held_out: HeldOut) -> list[list[Clip]]:
    return [held_out.speech(n, seconds) for n, seconds in zip(_CLIPS, LENGTHS_S, strict=True)]


def _espeak_rows(listener: Listener, vocabulary: Vocabulary, dtype: str) -> Iterator[Row]:
    held_out = HeldOut(vocabulary)
    clean = _clean_clips(held_out)
    noisy = [held_out.speech(n, seconds, snr_db=_SNR_DB) for n, seconds in zip(_CLIPS, LENGTHS_S, strict=True)]
    mixed, quiet = [clip for clips in clean for clip in clips], held_out.not_speech(100)
    cut = [clip for seconds in LENGTHS_S[1:] for clip in held_out.speech(30, seconds, cut_share=1.0)]
    contexts = held_out.hotwords(mixed, vocabulary.words)
    yield from _rows_by_length(listener, clean, f"clean, computed in {dtype}")
    yield _row("clean, all, language forced", mixed, listener.texts(mixed, vocabulary.language))
    yield _row("clean, all, with hotwords", mixed, listener.texts(mixed, prompts=contexts))
    yield _row("clean, cut in mid-word, 2 to 30 s", cut, listener.texts(cut))
    yield from _rows_by_length(listener, noisy, f"office noise at {_SNR_DB:g} dB, {dtype}")
    yield _row("silence, hum, noise, tones", quiet, listener.texts(quiet))
    yield _row("silence, hum, noise, tones, language forced", quiet, listener.texts(quiet, vocabulary.language))


def voice_table(listener: Listener, vocabulary: Vocabulary, voices: Path) -> Iterator[str]:
    """Yield a table with the word error on each natural voice, clean and in noise, with texts of evaluation alone."""
    yield f"| voice | clips | minutes | words | clean | office noise at {_SNR_DB:g} dB |"
    yield "|---|---|---|---|---|---|"
    for name, held_out in held_out_voices(voices, vocabulary).items():
        rates = []
        for snr_db in (None, _SNR_DB):
            sets = [held_out.speech(n, s, snr_db) for n, s in zip(_VOICE_CLIPS, LENGTHS_S, strict=True)]
            clips = [clip for clips in sets for clip in clips]
            if snr_db is None:
                minutes = sum(len(clip.samples) for clip in clips) / SAMPLE_RATE_HZ / 60
                sizes = f"{len(clips)} | {minutes:.1f} | {sum(len(clip.words) for clip in clips)}"
            rates.append(f"{100 * word_error_rate(clips, listener.texts(clips)):.2f} %")
        yield f"| {name} | {sizes} | {rates[0]} | {rates[1]} |"
