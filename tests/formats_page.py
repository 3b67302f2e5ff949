"""Write docs/formats.md from the tests that read each format: `python -m tests.formats_page`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests import tones
from tests.unit import test_readers

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Path(__file__).parents[1] / "docs" / "formats.md"
_HEAD: Final = """\
# Formats

scribed recognizes the format of a file by its content, whatever its name. It reads what the libraries libsndfile and
FFmpeg read, if the recording is a single file that refers to no other. The audio of a video is read too.

## Formats that a test reads

Each row is a case of a test in `tests/unit/test_readers.py`. It encodes speech, reads it, and compares sound and length
with the original; nothing may be reported as damaged or missing. A file in a format marked with * may also consist of
several recordings, one after the other, as `cat one two > both` makes it.

| format | ending | encoding | test |
|---|---|---|---|
"""
_TAIL: Final = """
Other tests read DSF (`test_dsd_is_decoded`), AMR-NB in .amr and .3gp (`test_phone_recordings_keep_their_pauses`) and
AMR-WB (`test_wideband_amr_keeps_its_length`). Monkey's Audio, Musepack, TAK, Shorten and DSS are read with FFmpeg,
but no program here writes them, so no test decodes one.

## Concatenated and unfinished files

`tests/unit/test_surroundings.py` tests each kind. Tags, padding and junk before, between and after the audio are
ignored (before the audio, up to 64 KiB). Concatenated recordings are all read, even in different formats. FLAC, MP3
and AAC do not say where they end, so such a file is read twice if something else follows. WAV, RF64, AIFF, CAF, W64,
AU and AVI files whose header was never finished are read to the end of the file. A file is reported as damaged only
if audio is missing: a gap in the numbers of pages or packets, frames that fail their checksum, or less audio than the
header states.

## What is not read

- **Protected recordings** (DRM: iTunes, Audible, Windows Media, Common Encryption). Export them without protection
  from the program that they come from.
- **DS2 dictation**, encrypted or not: only the makers' programs decode it. Export it as WAV or MP3.
- **Playlists and manifests**, which only list recordings.

## Several tracks

`transcribe.tracks: auto` reads every audio track that holds speech, each from its own start. Tracks in other
languages than the default track, commentaries and audio descriptions are alternatives and are left out; if the
default track holds no speech, they are read. A track with the same sound as another one, or as a mix of others, is
recognized and transcribed once. `audio.tracks` in the JSON document says what was done with each track. A track that
cannot be read makes the transcript incomplete; one that is left out does not.

At most eight tracks and channels of a recording are transcribed separately. If there are more tracks, the first seven
are transcribed separately and the rest are mixed; `transcribe.tracks` can choose one of them. With `split`, channels
for which no room is left are mixed, too. A note says so.

## Several channels

`transcribe.channels: auto` splits the two channels of a stereo track if each has its own talker. Either of two signs
is enough:

- One talks at a time, as in most telephone calls: in most of the time with speech, one channel is at least 10 dB
  louder while the other holds no more than noise or an echo.
- Both talk at the same time and the channels share no sound louder than about -25 dB, as with two recordings side by
  side (`sox -M`): neither the waveforms, at delays of up to 50 ms, nor the loudness over time have anything in
  common. This takes at least 1.25 s in which both talk, and `segment.vad: silero`, which must find speech in both
  channels.

Everything else is mixed: more than two channels, meetings in stereo, music, one voice in both channels, and
recordings that are too short to be sure. Encoders can join channels: Opus at 16 kbit/s stores only one, and Vorbis at
its lowest quality makes them depend on each other. `split` always splits, `mix` never does. Echoes, and what one
microphone picks up from the talker of another, are written once. `transcribe.channel_names: [Agent, Customer]` names
the channels in the documents.

## Times

Times are those that a player shows. If the recorder was paused, the pause keeps its length, up to
`preprocess.max_duration_h`, and takes no disk space. AVI has no time stamps: FFmpeg writes empty chunks for a pause,
which are counted, but for PCM it writes nothing, and the audio is joined. In MPEG transport and program streams, a
jump of the time stamps by more than 10 s is a cut: the parts are joined, and the receipt says so.

`python -m tests.formats_page` generates this page from the tests.
"""


def page() -> str:
    """Return the text of docs/formats.md."""
    return _HEAD + "".join(f"{row}\n" for row in _rows()) + _TAIL


def _rows() -> Iterator[str]:
    for test, formats in (
        (test_readers.test_every_format_keeps_its_audio_and_length, test_readers.FORMATS),
        (test_readers.test_telephone_codecs_keep_speech, test_readers.NARROW),
    ):
        for name, (file_name, options) in formats.items():
            ending = file_name.rpartition(".")[2]
            codec = options[options.index("-c:a") + 1] if "-c:a" in options else "FFmpeg's default"
            star = "*" if ending in tones.FORMATS else ""
            yield f"| {name}{star} | .{ending} | {codec} | `{test.__name__}[{name}]` |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
