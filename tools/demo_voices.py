"""Natural voices for the demo model: speech of flite and hibari, written to a folder.

    python tools/demo_voices.py --into build/voices --minutes 40

The training reads that folder: some of these synthesizers are too slow to run while it waits. Needs libflite
(Debian and Ubuntu: ``apt install flite``) and the packages of ``scribed[training]``.
"""

import argparse
import ctypes
import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import soxr
from demo_speech import ENGLISH, SAMPLE_RATE_HZ, Utterance, random_text
from hibari import Hibari, dsp

_Session: TypeAlias = onnxruntime.InferenceSession

FLITE_VOICES: Final = ("kal16", "awb", "slt")
HELD_OUT_FLITE_VOICE: Final = "rms"
TRAINING_VOICES: Final = (*FLITE_VOICES, "hibari")
HELD_OUT_VOICES: Final = (HELD_OUT_FLITE_VOICE, "hibari-held-out")
_LENGTHS: Final = ((1, 3), (4, 9), (10, 20), (21, 40))  # words in an utterance, and how often each is drawn:
_LENGTH_WEIGHTS: Final = (35, 35, 20, 10)
_PER_SESSION: Final = 10
_SILENT: Final = 100  # of 32,768
_CELLS: Final = 6  # of hibari's speeds, and of its pitches


@dataclass(frozen=True, slots=True)
class Manner:
    """Factors on a voice's own speed and pitch; a ``stretch`` of 1.1 plays it slower and lower, like a larger head."""

    speed: float
    pitch: float
    stretch: float


class Synthesizer(Protocol):
    """A voice that reports when it says each word."""

    def say(self, text: str, manner: Manner) -> Utterance | None:
        """Speak ``text`` (words between single spaces), or return None if words and audio do not match."""


def _utterance(
    sound: npt.NDArray[Any], rate_hz: float, text: str, ends_s: Sequence[float], stretch: float
) -> Utterance:
    """Bring float or int16 samples to 16 kHz and trim silence; word i ends ``ends_s[i]`` after the first sample."""
    if sound.dtype != np.int16:
        sound = (np.clip(sound, -1.0, 1.0) * 32_767).astype(np.int16)
    samples = soxr.resample(sound, rate_hz, SAMPLE_RATE_HZ * stretch, quality="HQ")
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > _SILENT)
    first, last = (int(loud[0]), int(loud[-1]) + 1) if loud.size else (0, len(samples))
    at = np.array([0.0, *ends_s]) * SAMPLE_RATE_HZ * stretch - first
    at[0], at[-1] = 0, last - first
    borders = tuple(int(b) for b in np.clip(at, 0, last - first))
    return Utterance(np.asarray(samples[first:last], np.int16), tuple(text.split()), borders)


class _Wave(ctypes.Structure):
    """``cst_wave`` of flite."""

    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class _Voice(ctypes.Structure):
    """The beginning of ``cst_voice`` of flite."""

    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


@functools.cache
def _flite() -> ctypes.CDLL:
    library = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
    for name in ("libflite_cmulex.so.1", "libflite_usenglish.so.1"):
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    library.flite_synth_text.restype = library.utt_relation.restype = ctypes.c_void_p
    library.relation_head.restype = library.item_next.restype = ctypes.c_void_p
    library.utt_wave.restype = ctypes.POINTER(_Wave)
    library.flite_ffeature_float.restype = ctypes.c_float
    library.flite_init()
    return library


class Flite:
    """One of flite's voices, in process. Word times come from the ends of the segments."""

    # Mean pitch in Hz; ``Manner.pitch`` is a factor on it.
    _PITCH: Final = {"kal16": 95.0, "awb": 130.0, "slt": 170.0, "rms": 95.0}

    def __init__(self, name: str) -> None:
        self._library, self._pitch = _flite(), self._PITCH[name]
        register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
        register.restype = ctypes.POINTER(_Voice)
        self._voice = register(None)

    def say(self, text: str, manner: Manner) -> Utterance | None:
        """Speak ``text``."""
        library, features = self._library, ctypes.c_void_p(self._voice.contents.features)
        library.flite_feat_set_float(features, b"duration_stretch", ctypes.c_float(1 / manner.speed))
        library.flite_feat_set_float(features, b"int_f0_target_mean", ctypes.c_float(self._pitch * manner.pitch))
        utterance = ctypes.c_void_p(library.flite_synth_text(text.encode(), self._voice))
        try:
            wave = library.utt_wave(utterance).contents
            sound = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
            ends_s = []
            word = library.relation_head(ctypes.c_void_p(library.utt_relation(utterance, b"Word")))
            while word:
                path = b"R:SylStructure.daughtern.daughtern.R:Segment.end"
                ends_s.append(library.flite_ffeature_float(ctypes.c_void_p(word), path))
                word = library.item_next(ctypes.c_void_p(word))
            rate_hz = wave.sample_rate
        finally:
            library.delete_utterance(utterance)
        if len(ends_s) != len(text.split()):
            return None
        return _utterance(sound, rate_hz, text, ends_s, manner.stretch)


def _with_durations(path: Path, durations: str) -> _Session:
    """Load an ONNX model with one more output: the tensor ``durations``, which holds the length of each phoneme."""
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(durations))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return _Session(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _word_ends(phonemes: str, n_frames: npt.NDArray[np.float64]) -> list[float]:
    """Return the frame where each word (between spaces) ends, given how many frames each character lasts."""
    ends = np.cumsum(n_frames)
    at = [i - 1 for i, character in enumerate(phonemes) if character == " "]
    return [float(ends[i]) for i in (*at, len(phonemes) - 1)]


class HibariVoice:
    """The voice "heart" of hibari-tts, at any speed and pitch."""

    _DURATIONS: Final = "/Clip_output_0"

    def __init__(self) -> None:
        self._hibari = Hibari()
        self._session = _with_durations(Path(self._hibari.model_path), self._DURATIONS)
        self._rng = np.random.default_rng(0)

    def say(self, text: str, manner: Manner) -> Utterance | None:
        """Speak ``text``."""
        phonemes = "".join(c for c in " ".join(self._hibari.phonemize(text)) if c in self._hibari.vocab)
        if phonemes.count(" ") != text.count(" "):
            return None
        ids = np.asarray([self._hibari.ids(phonemes)], np.int64)
        names = [output.name for output in self._session.get_outputs()]
        out = self._session.run(names, {"ids": ids, "speed": np.asarray([manner.speed], np.float32)})
        *spectrum, f0 = (o[0] for o in out[:-1])
        n_frames = out[-1].reshape(-1)
        sound = dsp.synth(*spectrum, f0 * np.float32(manner.pitch), self._rng)
        ends = np.array(_word_ends(phonemes, n_frames[1:-1])) + n_frames[0]
        ends_s = ends * len(sound) / n_frames.sum() / dsp.SR
        return _utterance(sound, dsp.SR, text, list(ends_s), manner.stretch)


_MAKERS: Final[dict[str, Callable[[], Synthesizer]]] = {
    **{name: functools.partial(Flite, name) for name in (*FLITE_VOICES, HELD_OUT_FLITE_VOICE)},
    "hibari": HibariVoice,
    "hibari-held-out": HibariVoice,
}


def random_manner(rng: random.Random, name: str, *, most_stretch: float) -> Manner:
    """Draw how a voice speaks. hibari's speeds and pitches form a chessboard; the training uses one colour only."""
    stretch = rng.uniform(1 - most_stretch, 1 + most_stretch)
    if name.startswith("hibari"):
        is_held_out = name == "hibari-held-out"
        while True:
            speed, pitch = rng.randrange(_CELLS), rng.randrange(_CELLS)
            if (speed + pitch) % 2 == is_held_out:
                break
        return Manner(0.8 + 0.1 * (speed + rng.random()), 0.7 + 0.1 * (pitch + rng.random()), stretch)
    return Manner(rng.uniform(0.85, 1.3), rng.uniform(0.8, 1.25), stretch)


def speak_session(rng: random.Random, name: str, voice: Synthesizer, *, held_out: bool) -> list[Utterance]:
    """Speak some texts in one manner: texts for evaluation if ``held_out``, else for training."""
    manner = random_manner(rng, name, most_stretch=0.03 if held_out else 0.1)
    session: list[Utterance] = []
    while len(session) < _PER_SESSION:
        n_words = rng.randint(*rng.choices(_LENGTHS, _LENGTH_WEIGHTS)[0])
        text = random_text(rng, ENGLISH, n_words, held_out=held_out)
        if (utterance := voice.say(text, manner)) is not None:
            session.append(utterance)
    return session


def write_session(session: Sequence[Utterance], path: Path) -> None:
    """Write a session atomically as an uncompressed .npz."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file,
            samples=np.concatenate([u.samples for u in session]),
            lengths=np.array([len(u.samples) for u in session]),
            texts=np.array([" ".join(u.words) for u in session]),
            borders=np.concatenate([u.borders for u in session]),
        )
    part.rename(path)


def main() -> None:
    """Write sessions of each voice to the folder until there are enough minutes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--into", type=Path, required=True, help="folder for the speech")
    parser.add_argument("--minutes", type=float, default=40.0, help="minutes of speech of each voice")
    parser.add_argument("--voices", nargs="+", default=[*TRAINING_VOICES], choices=[*TRAINING_VOICES, *HELD_OUT_VOICES])
    parser.add_argument("--held-out", action="store_true", help="speak the texts kept for evaluation")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.held_out and (kept := set(arguments.voices) & set(HELD_OUT_VOICES)):
        parser.error(f"{', '.join(sorted(kept))} is only for evaluation: add --held-out")
    for name in arguments.voices:
        folder = arguments.into / ("held-out" if arguments.held_out else "training") / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random(f"{arguments.seed} {name} {arguments.held_out}")
        voice, made_s, index = _MAKERS[name](), 0.0, 0
        while made_s < arguments.minutes * 60:
            session = speak_session(rng, name, voice, held_out=arguments.held_out)
            write_session(session, folder / f"{arguments.seed}-{index:05}.npz")
            made_s += sum(len(u.samples) for u in session) / SAMPLE_RATE_HZ
            index += 1
        print(f"{name}: {made_s / 60:.1f} minutes in {folder}")


if __name__ == "__main__":
    main()
