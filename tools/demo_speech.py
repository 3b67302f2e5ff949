"""Synthetic speech for the demo model: its words, its sentences and its voices, spoken by espeak-ng.

Needs the shared library of espeak-ng (Debian and Ubuntu: ``apt install espeak-ng``). It is called in process, which
makes about 900 s of speech in one second on one core and tells where each word begins; starting the command for each
sentence would be slower and gives no word times.
"""

import atexit
import ctypes
import functools
import os
import random
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import soxr

SAMPLE_RATE_HZ: Final = 16_000

_NUMBERS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred"
)
_DAYS: Final = "monday tuesday wednesday thursday friday saturday sunday"
_MONTHS: Final = "january february march april may june july august september october november december"
_TIMES: Final = (
    "today tomorrow yesterday morning afternoon evening week month year minutes now later again before after until "
    "every early late"
)
_THINGS: Final = (
    "report project budget contract invoice email phone number document folder printer computer laptop keyboard "
    "screen password server network message letter calendar schedule question answer problem plan price order "
    "package ticket table paper product design review recording"
)
_EVENTS: Final = "meeting deadline training delivery lunch coffee market travel"
_PLACES: Final = "office room building kitchen window door hotel airport"
_PEOPLE: Final = "manager customer team doctor"
_VERBS: Final = "send call bring check open move cancel confirm finish update copy help thank need meet starts ends"
_LINKS: Final = "the and in on at is are not this that with from we you will can please yes no okay hello"
_ADJECTIVES: Final = "new good great ready next last first second all red green yellow black"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of one language and the patterns its sentences are made from.

    ``slots`` maps a name to alternatives; ``{name}`` in a pattern stands for one of them, which may hold slots too.
    """

    language: str
    words: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]
    accents: tuple[str, ...]


def _english_words() -> tuple[str, ...]:
    groups = (_NUMBERS, _DAYS, _MONTHS, _TIMES, _THINGS, _EVENTS, _PLACES, _PEOPLE, _VERBS, _LINKS, _ADJECTIVES)
    return tuple(" ".join(groups).split())


# Of words that sound alike only one is here (two, four, no, meet, price, plan): a transcript is right or wrong without
# room for choice. That leaves out "to", "for" and "a": the sentences do without.
_ENGLISH_SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "digit": tuple(_NUMBERS.split()[:10]),
    "hour": tuple(_NUMBERS.split()[1:13]),
    "teen": tuple(_NUMBERS.split()[10:20]),
    "tens": tuple(_NUMBERS.split()[20:28]),
    "part": ("fifteen", "thirty", "forty five", "ten", "twenty", "fifty"),
    "time": ("{hour}", "{hour} {part}"),
    "number": ("{digit}", "{teen}", "{tens}", "{tens} {digit}", "{digit} hundred", "{digit} hundred and {tens}"),
    "digits": ("{digit} {digit} {digit}", "{digit} {digit} {digit} {digit} {digit}", "{tens} {digit} {digit} {tens}"),
    "day": tuple(_DAYS.split()),
    "month": tuple(_MONTHS.split()),
    "adjective": ("new", "good", "great", "next", "last", "first", "second", "red", "green", "yellow", "black"),
    "thing": (
        *_THINGS.split(),
        "{adjective} {noun}",
        "project plan",
        "training schedule",
        "phone number",
        "order number",
    ),
    "noun": tuple(_THINGS.split()),
    "event": ("meeting", "training", "delivery", "lunch", "review", "deadline", "{adjective} meeting", "team meeting"),
    "place": (*_PLACES.split(), "meeting room", "office building", "training room"),
    "person": (*_PEOPLE.split(), "new manager", "project manager", "next customer", "project team"),
    "when": (
        "today",
        "tomorrow",
        "now",
        "later",
        "again",
        "on {day}",
        "{day} morning",
        "{day} afternoon",
        "tomorrow evening",
        "before {day}",
        "after lunch",
        "until {day}",
        "this week",
        "next month",
        "at {time}",
        "every {day}",
        "this year",
        "early {day} morning",
        "on {month} {number}",
        "in {month}",
        "before {time}",
        "in {number} minutes",
    ),
    "do": ("send", "call", "bring", "check", "open", "move", "cancel", "confirm", "finish", "update", "copy"),
    "sentence": (
        "please {do} the {thing} {when}",
        "the {event} starts at {time}",
        "the {event} ends at {time}",
        "the {event} on {day} starts at {time} in the {place}",
        "we need the {thing} {when}",
        "can you {do} the {thing}",
        "can you call the {person} {when}",
        "the {thing} is ready",
        "the {thing} is not ready",
        "hello this is the {person}",
        "the phone number is {digits}",
        "the price is {number}",
        "we will meet the {person} in the {place} {when}",
        "you can {do} the {thing} {when}",
        "please confirm the {event} with the {person}",
        "thank you and {do} the {thing}",
        "the {person} will {do} the {thing} {when}",
        "that is the {adjective} {noun}",
        "all {noun} and {noun} are ready",
        "we are in the {place} {when}",
        "the answer from the {person} is {yes}",
        "{yes} the {thing} is in the {place}",
        "please help the {person} with the {thing}",
        "the {thing} from {month} {number} is late",
        "the password is {word} {word}",
        "the {event} is on {month} {number} at {time}",
        "the budget and the {thing} are not in the {folder}",
        "{yes} thank you",
        "we need {number} minutes with the {thing}",
        "move the {event} from {day} until {day}",
        "room {number} is {adjective}",
        "check the {thing} and the {thing} before the {event}",
        "good morning this is the {place}",
        "are you ready {when}",
        "the {noun} order is {digits}",
        "this is the last {noun} from {month}",
        "the travel ticket is in the {folder}",
    ),
    "yes": ("yes", "no", "okay", "hello", "great"),
    "folder": ("folder", "{adjective} folder", "document", "email", "calendar", "package"),
}

ENGLISH: Final = Vocabulary(
    language="English",
    words=_english_words(),
    slots=_ENGLISH_SLOTS | {"word": _english_words()},
    accents=(
        "gmw/en-US",
        "gmw/en",
        "gmw/en-GB-scotland",
        "gmw/en-GB-x-rp",
        "gmw/en-GB-x-gbclan",
        "gmw/en-GB-x-gbcwmd",
    ),
)

_TRAINING_VARIANTS: Final = (
    "",
    "m1",
    "m2",
    "m3",
    "m4",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f5",
    "adam",
    "Alex",
    "Alicia",
    "Andrea",
    "Annie",
    "Denis",
    "Diogo",
    "ed",
    "edward",
    "Gene",
    "Jacky",
    "john",
    "linda",
    "max",
    "Michael",
    "Mike",
    "pablo",
    "paul",
    "quincy",
    "rob",
    "robert",
    "steph",
    "Storm",
    "sandro",
    "travis",
    "zac",
    "anika",
    "norbert",
    "marcelo",
    "Marco",
    "benjamin",
    "david",
    "Hugo",
    "Henrique",
    "iven",
    "grandma",
)
_HELD_OUT_VARIANTS: Final = ("m5", "f4", "Andy", "Lee", "belinda", "victor")
_HELD_OUT_PAIRS: Final = (("gmw/en-GB-scotland", "m3"), ("gmw/en-GB-x-rp", "f2"), ("gmw/en-US", "m7"), ("gmw/en", "f3"))


_DRAWN: Final = "drawn"


@dataclass(frozen=True, slots=True)
class Voice:
    """How one speaker sounds: an espeak-ng voice, its speed in words a minute, its pitch from 0 to 99."""

    name: str
    words_per_minute: int
    pitch: int
    stretch: float = 1.0


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one voice said without a pause.

    ``samples`` is int16, shape (n_samples,), 16 kHz; word i lasts from ``borders[i]`` to ``borders[i + 1]`` (samples).
    """

    samples: npt.NDArray[np.int16]
    words: tuple[str, ...]
    borders: tuple[int, ...]


def voice_names(vocabulary: Vocabulary, *, held_out: bool) -> list[str]:
    """Return the espeak-ng voices used in training, or those kept for evaluation."""
    pairs = [(accent, variant) for accent in vocabulary.accents for variant in _TRAINING_VARIANTS]
    if held_out:
        pairs = [(accent, variant) for accent in vocabulary.accents for variant in _HELD_OUT_VARIANTS]
        pairs += _HELD_OUT_PAIRS
    else:
        pairs = [pair for pair in pairs if pair not in _HELD_OUT_PAIRS]
    return [f"{accent}+{variant}" if variant else accent for accent, variant in pairs]


def random_voice(rng: random.Random, names: list[str], *, most_stretch: float) -> Voice:
    """Draw a voice with a random speed (120 to 200 words a minute), pitch (25 to 75) and stretch.

    A stretch of 1.1 makes the speech a tenth longer and lower, as a larger head would sound.
    """
    stretch = rng.uniform(1 - most_stretch, 1 + most_stretch)
    return Voice(rng.choice(names), rng.randint(120, 200), rng.randint(25, 75), stretch)


def random_variant(rng: random.Random) -> str:
    """Return the file of a voice variant of espeak-ng with its formants anywhere, as its own stranger ones have them.

    Format: https://github.com/espeak-ng/espeak-ng/blob/master/docs/voices.md.
    """
    pitch, size = rng.randint(70, 200), rng.uniform(78, 125)
    lines = ["language variant", "name drawn", f"pitch {pitch} {round(pitch * rng.uniform(1.15, 1.6))}"]
    lines += [f"flutter {rng.randint(0, 6)}", f"voicing {rng.randint(60, 130)}", f"consonants {rng.randint(60, 120)}"]
    for formant in range(9):
        frequency, height, width = size * rng.uniform(0.92, 1.08), rng.uniform(45, 140), rng.uniform(70, 165)
        if formant >= 3 and rng.random() < 0.25:  # the vowels live on the first two
            frequency, height = rng.uniform(5, 300), rng.choice((0.0, height))
        lines.append(f"formant {formant} {frequency:.0f} {height:.0f} {width:.0f}")
    return "\n".join(lines) + "\n"


def is_held_out(text: str) -> bool:
    """Return whether a text of four words or more is kept for evaluation: one in twenty is, by its checksum."""
    return text.count(" ") >= 3 and zlib.crc32(text.encode()) % 20 == 0


def _fill(rng: random.Random, vocabulary: Vocabulary, pattern: str) -> str:
    while (end := pattern.find("}")) >= 0:
        start = pattern.rindex("{", 0, end)
        pattern = pattern[:start] + rng.choice(vocabulary.slots[pattern[start + 1 : end]]) + pattern[end + 1 :]
    return pattern


def random_text(rng: random.Random, vocabulary: Vocabulary, n_words: int, *, held_out: bool) -> str:
    """Make a text of about ``n_words``: sentences or, as often, words in random order.

    Except for texts of one to three words, training and evaluation (``held_out``) never share a text.
    """
    while True:
        if n_words >= 3 and rng.random() < 0.5:
            words: list[str] = []
            while len(words) < n_words:
                words += _fill(rng, vocabulary, "{sentence}").split()
            words = words if n_words < 20 else words[:n_words]
        else:
            words = rng.choices(vocabulary.words, k=n_words)
        text = " ".join(words)
        if len(words) < 4 or is_held_out(text) == held_out:
            return text


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_EVENT_LIST_TERMINATED: Final = 0
_EVENT_WORD: Final = 1
_SYNCHRONOUS: Final = 2
_POSITION_CHARACTER: Final = 1
_CHARS_UTF8: Final = 1
_RATE: Final = 1
_PITCH: Final = 3
_ON_SOUND: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@functools.cache
def _library() -> tuple[ctypes.CDLL, int, Path]:
    """Start espeak-ng once per process: return the library, its sample rate in Hz, and a folder for variants."""
    library = ctypes.CDLL("libespeak-ng.so.1")
    library.espeak_Info.restype = ctypes.c_char_p
    data = ctypes.c_char_p()
    library.espeak_ng_InitializePath(None)
    library.espeak_Info(ctypes.byref(data))
    folder = Path(tempfile.mkdtemp(prefix="espeak-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    variants = _linked(Path(os.fsdecode(data.value or b"")), folder / "espeak-ng-data", ("voices", "!v"))
    rate_hz: int = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(folder), 0)
    if rate_hz <= 0:
        msg = "espeak-ng could not be started: is its data installed (apt install espeak-ng)?"
        raise RuntimeError(msg)
    return library, rate_hz, variants


def espeak_library() -> ctypes.CDLL:
    """Return the library of espeak-ng, started."""
    return _library()[0]


def _linked(source: Path, copy: Path, way: tuple[str, ...]) -> Path:
    """Link all entries of ``source`` into ``copy``, except the folders along ``way``; return the last of those."""
    copy.mkdir()
    for entry in source.iterdir():
        if not way or entry.name != way[0]:
            (copy / entry.name).symlink_to(entry)
    return _linked(source / way[0], copy / way[0], way[1:]) if way else copy


class Espeak:
    """Speaks through libespeak-ng. The library keeps global state, so each call sets all of it; not thread-safe."""

    def __init__(self) -> None:
        self._library, self._rate_hz, self._variants = _library()
        self._sound: list[npt.NDArray[np.int16]] = []
        self._word_starts: list[tuple[int, int]] = []  # (character, sample)
        self._callback = _ON_SOUND(self._on_sound)  # kept: the library holds only a pointer

    def _on_sound(self, sound: "ctypes._Pointer[ctypes.c_short]", n: int, events: "ctypes._Pointer[_Event]") -> int:
        if n > 0:
            self._sound.append(np.ctypeslib.as_array(sound, (n,)).copy())
        index = 0
        while (event := events[index]).type != _EVENT_LIST_TERMINATED:
            if event.type == _EVENT_WORD:
                self._word_starts.append((event.text_position - 1, event.sample))
            index += 1
        return 0

    def learn(self, variant: str) -> str:
        """Install a variant's file in place of the previous one; return its name, to append to an accent."""
        (self._variants / _DRAWN).write_text(variant)
        return _DRAWN

    def say(self, text: str, voice: Voice) -> Utterance:
        """Speak ``text`` (words between single spaces, commas allowed) and trim the silence that espeak-ng adds."""
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            msg = f"espeak-ng has no voice {voice.name}"
            raise ValueError(msg)
        self._library.espeak_SetParameter(_RATE, voice.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        self._sound.clear()
        self._word_starts.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        sound = np.concatenate(self._sound)
        ratio = voice.stretch * SAMPLE_RATE_HZ / self._rate_hz
        samples = soxr.resample(sound, self._rate_hz, self._rate_hz * ratio, quality="MQ")
        return _trimmed(samples, text, dict(self._word_starts), ratio)


def _trimmed(samples: npt.NDArray[np.int16], text: str, starts: dict[int, int], ratio: float) -> Utterance:
    """Cut leading and trailing silence; a word without an event of its own begins midway between its neighbours."""
    words = tuple(text.replace(",", "").split())
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 100)
    first, last = (int(loud[0]), int(loud[-1]) + 1) if loud.size else (0, len(samples))
    characters, position = [], 0
    for word in text.split():
        characters.append(position)
        position += len(word) + 1
    known = [(i, starts[c] * ratio - first) for i, c in enumerate(characters) if c in starts]
    at = np.interp(range(len(words) + 1), [i for i, _ in known] + [len(words)], [s for _, s in known] + [last - first])
    at[0] = 0
    borders = tuple(int(b) for b in np.clip(at, 0, last - first))
    return Utterance(np.asarray(samples[first:last], np.int16), words, borders)
