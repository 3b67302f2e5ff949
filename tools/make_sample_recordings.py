"""Make the sample recordings of the demo: office talk in words that the demo model knows.

    python tools/make_sample_recordings.py --out daemon/demo/recordings

The meeting is spoken by four natural voices, one of them quiet and far from the microphone; the others by espeak-ng.
Needs the libraries of espeak-ng and flite, the packages of ``scribed[training]`` and, for m4a and mp3, the ffmpeg
command. The same seed gives the same sound. ``references.json`` maps each name to the words spoken in it.
"""

import argparse
import json
import random
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
from demo_clips import Samples, coloured_noise
from demo_speech import ENGLISH, SAMPLE_RATE_HZ, Espeak, Utterance, Voice
from demo_voices import FLITE_VOICES, Flite, HibariVoice, Manner
from scipy.signal import fftconvolve

_AS_IT_IS: Final = Manner(1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Person:
    """Who speaks: a voice of espeak-ng or the name of a natural one, their peak level, and whether they sit far away.

    Speech from far away carries the echoes of the room.
    """

    voice: Voice | str
    manner: Manner = _AS_IT_IS
    peak_dbfs: float = -23.0
    is_far: bool = False


_ANNA: Final = Person("slt")
_BEN: Final = Person("kal16")
_CARLA: Final = Person("hibari", Manner(0.95, 1.05, 1.0))
_DAN: Final = Person("awb", Manner(1.05, 1.0, 1.0), peak_dbfs=-37.0, is_far=True)
# The variants f4, m5 and Andy are kept out of the training.
_EVE: Final = Person(Voice("gmw/en-GB-x-rp+f4", 145, 50))
_FRED: Final = Person(Voice("gmw/en-US+Andy", 150, 50))
_GUS: Final = Person(Voice("gmw/en-US+m5", 155, 45))

_MEETING: Final = (
    (_ANNA, "hello and good morning please open the project plan"),
    (_ANNA, "this is the last meeting before the review on monday"),
    (_BEN, "thank you the new budget is ready and the report is on the network"),
    (_ANNA, "great can you send the report before lunch"),
    (_CARLA, "yes the manager will confirm the price today"),
    (_CARLA, "we need thirty minutes with the customer tomorrow morning"),
    (_ANNA, "okay the customer is in the building on thursday at nine thirty"),
    (_DAN, "the red folder is not in the office please check the kitchen and the meeting room"),
    (_ANNA, "the folder is on the table in room seven"),
    (_BEN, "the delivery from march twelve is late and the invoice is not ready"),
    (_CARLA, "please call the team again this afternoon"),
    (_ANNA, "the phone number is four two nine eight six"),
    (_BEN, "thank you the training starts at ten fifteen on friday in the hotel"),
    (_CARLA, "will you bring the laptop and the printer"),
    (_DAN, "yes and we will copy the document before the training"),
    (_ANNA, "the server and the password update are the next question"),
    (_BEN, "the server update starts on saturday evening and ends on sunday"),
    (_ANNA, "good please send the email and update the calendar"),
    (_CARLA, "the travel budget is three hundred and forty and the ticket is two hundred"),
    (_ANNA, "no problem we can finish the contract this week"),
    (_DAN, "the deadline is december eighteen"),
    (_ANNA, "okay thank you all and we meet again next tuesday at eleven"),
)
_MEMO: Final = ((_EVE, "please send the invoice before friday"), (_EVE, "and call the doctor at four thirty"))
_VOICEMAIL: Final = (
    (_FRED, "hello this is the hotel"),
    (_FRED, "room two hundred is ready on wednesday"),
    (_FRED, "please call again before seven this evening"),
)
_REMINDER: Final = (
    (_GUS, "the review meeting is on october nineteen"),
    (_GUS, "bring the contract and the new calendar"),
)


@dataclass(frozen=True, slots=True)
class SampleRecording:
    """One file to make: what is said, how long the pauses are (seconds), and how loud hum and room are (dBFS)."""

    name: str
    turns: tuple[tuple[Person, str], ...]
    pauses_s: tuple[float, float]
    hum_dbfs: float
    room_dbfs: float
    encoder: tuple[str, ...] = ()


RECORDINGS: Final = (
    SampleRecording("meeting.flac", _MEETING, (0.8, 1.9), -46.0, -72.0),
    SampleRecording("memo.wav", _MEMO, (0.4, 0.8), -60.0, -62.0),
    SampleRecording("voicemail.m4a", _VOICEMAIL, (0.5, 1.2), -50.0, -55.0, ("-c:a", "aac", "-b:a", "48k")),
    SampleRecording("reminder.mp3", _REMINDER, (0.5, 1.0), -60.0, -55.0, ("-c:a", "libmp3lame", "-b:a", "48k")),
)


def mains_hum(n_samples: int) -> Samples:
    """Return 50 Hz with four harmonics that fall off, of power 1: as a badly grounded microphone picks it up."""
    t = np.arange(n_samples) / SAMPLE_RATE_HZ
    sound = sum(np.sin(2 * np.pi * 50 * harmonic * t + harmonic) / harmonic**2 for harmonic in (1, 2, 3, 5))
    return np.asarray(sound / np.std(sound), np.float32)


class Cast:
    """Speaks for each person."""

    def __init__(self) -> None:
        self._espeak, self._natural = Espeak(), {name: Flite(name) for name in FLITE_VOICES}
        self._hibari = HibariVoice()

    def say(self, text: str, person: Person) -> Samples:
        """Return what a person says: float32 (n_samples,), 16 kHz."""
        spoken: Utterance | None
        if isinstance(person.voice, Voice):
            spoken = self._espeak.say(text, person.voice)
        elif person.voice == "hibari":
            spoken = self._hibari.say(text, person.manner)
        else:
            spoken = self._natural[person.voice].say(text, person.manner)
        if spoken is None:
            raise ValueError(f"{person.voice} cannot say {text!r}")
        samples = spoken.samples.astype(np.float32)
        if person.is_far:
            samples = np.asarray(fftconvolve(samples, _room_echoes()), np.float32)
        return samples * np.float32(10 ** (person.peak_dbfs / 20) / np.abs(samples).max())


def _room_echoes(duration_s: float = 0.25, level: float = 0.04) -> Samples:
    """Return an impulse response: the direct sound, then echoes that fall by 60 dB in ``duration_s``."""
    n = round(duration_s * SAMPLE_RATE_HZ)
    echoes = np.random.default_rng(1).standard_normal(n) * 10 ** (-3 * np.arange(n) / n) * level
    echoes[0] = 1.0
    return np.asarray(echoes, np.float32)


def sound_of(recording: SampleRecording, cast: Cast, seed: int) -> Samples:
    """Speak a recording's turns between pauses, over hum and room noise: float32 (n_samples,), 16 kHz."""
    rng = random.Random(f"{seed} {recording.name}")
    pieces = [np.zeros(SAMPLE_RATE_HZ // 2, np.float32)]
    for person, text in recording.turns:
        pieces += [cast.say(text, person)]
        pieces += [np.zeros(int(rng.uniform(*recording.pauses_s) * SAMPLE_RATE_HZ), np.float32)]
    sound = np.concatenate(pieces)
    room = coloured_noise(np.random.default_rng(seed), len(sound), 2.0)  # steep: flac packs it well
    sound += mains_hum(len(sound)) * np.float32(10 ** (recording.hum_dbfs / 20))
    sound += room * np.float32(10 ** (recording.room_dbfs / 20))
    return sound


def write(sound: Samples, path: Path, encoder: tuple[str, ...]) -> None:
    """Write 16-bit wav or flac or, with ``encoder`` options, what ffmpeg makes of them, without time or version."""
    if not encoder:
        is_flac = path.suffix == ".flac"
        soundfile.write(path, sound, SAMPLE_RATE_HZ, subtype="PCM_16", compression_level=1.0 if is_flac else None)
        return
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "sound.wav"
        soundfile.write(wav, sound, SAMPLE_RATE_HZ, subtype="PCM_16")
        plain = ("-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact")
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-i", str(wav), *encoder, *plain, str(path)]
        subprocess.run(command, check=True)


def main() -> None:
    """Make all recordings and their references."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cast, references = Cast(), {}
    for recording in RECORDINGS:
        text = " ".join(text for _, text in recording.turns)
        if unknown := sorted(set(text.split()) - set(ENGLISH.words)):
            parser.error(f"{recording.name}: the model does not know {', '.join(unknown)}")
        references[recording.name] = text
        write(sound_of(recording, cast, arguments.seed), arguments.out / recording.name, recording.encoder)
    (arguments.out / "references.json").write_text(json.dumps(references, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
