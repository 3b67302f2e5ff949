"""Recordings with several audio tracks: which are heard, from when on, and what is said about the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from daemon import errors
from daemon.config import Preprocess
from daemon.decode import AudioFiles, RecordingFile
from daemon.frontend import preparing
from daemon.frontend.messages import Prepare
from daemon.frontend.preparing import FoundStream, find_streams
from daemon.segment import examination
from tests import media, voices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from daemon.frontend import FrontEnd
    from daemon.transcript import Receipt

S = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracks")


@pytest.fixture(scope="module")
def talkers(folder: Path) -> dict[str, Path]:
    """Two people who say different things, and what neither of them is: music, silence, both together."""
    first = voices.conversation([("slt", "Good morning. The report is on the table.")] * 2, [1.0])[0]
    second = voices.conversation([("rms", "Please call the doctor before nine.")] * 2, [2.0], lead_s=2.5)[0]
    n = max(len(first), len(second))
    first, second = (np.pad(each, (0, n - len(each))) for each in (first, second))
    chords = np.sum([media.tone(n / S, S, f, 0.05) for f in (220.0, 277.2, 329.6)], axis=0)
    sounds = {
        "first": first,
        "second": 0.5 * second,
        "chords": chords,
        "nothing": np.zeros(n),
        "mix": 0.7 * first + 0.35 * second,
        "mix with chords": 0.7 * first + chords,
    }
    return {
        name: media.write_audio(folder / f"{name}.wav", sound.astype(np.float32), S) for name, sound in sounds.items()
    }


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Preparer]:
    preparer = Preparer(tmp_path)
    yield preparer
    for stream in preparer.streams:
        stream.waveform.close()


class Preparer:
    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.streams: list[FoundStream] = []

    def __call__(
        self,
        path: Path,
        tracks: Literal["auto", "all"] | int = "auto",
        channels: Literal["auto", "mix", "split"] = "auto",
        **settings: float | str,
    ) -> tuple[tuple[FoundStream, ...], Receipt]:
        request = Prepare(Preprocess.model_validate(settings), "silero", self._cache, tracks, channels)
        with RecordingFile.open(path) as source, AudioFiles(self._cache) as self.files:
            streams, receipt = find_streams(source, self.files, request)
        self.streams += streams
        return streams, receipt


def mux(target: Path, inputs: list[Path], *options: str, codec: str = "pcm_s16le") -> Path:
    """Put recordings into one file, each as a track."""
    sources = [word for path in inputs for word in ("-i", str(path))]
    maps = [word for at in range(len(inputs)) for word in ("-map", str(at))]
    media.ffmpeg(*sources, *maps, "-c:a", codec, *options, target)
    return target


def reasons(receipt: Receipt) -> list[str | None]:
    return [None if track.is_used else track.reason for track in receipt.tracks]


def heard(streams: tuple[FoundStream, ...]) -> list[int | None]:
    return [stream.track for stream in streams]


def sound(path: Path) -> NDArray[np.float32]:
    return media.read_audio(path)[0]


@pytest.mark.parametrize(("ending", "codec"), [("mkv", "aac"), ("mp4", "aac"), ("mov", "pcm_s16le"), ("ts", "mp2")])
def test_all_tracks_with_speech_are_heard(
    ending: str, codec: str, talkers: dict[str, Path], folder: Path, prepare: Preparer
) -> None:
    path = mux(folder / f"two.{ending}", [talkers["first"], talkers["second"]], codec=codec)
    streams, receipt = prepare(path, highpass_hz=0)
    assert heard(streams) == [1, 2]
    for stream, name in zip(streams, ("first", "second"), strict=True):
        assert media.similarity(media.samples_of(stream.waveform), sound(talkers[name])) > 0.98
    assert receipt.is_complete
    assert reasons(receipt) == [None, None]
    assert receipt.notes == ()


def test_track_without_sound_or_speech_is_left_out(talkers: dict[str, Path], folder: Path, prepare: Preparer) -> None:
    inputs = [talkers[name] for name in ("nothing", "chords", "second")]
    streams, receipt = prepare(mux(folder / "muted.mkv", inputs))
    assert heard(streams) == [3]
    assert reasons(receipt) == ["silent", "holds no speech", None]
    assert receipt.is_complete
    assert receipt.duration_s == pytest.approx(len(sound(talkers["second"])) / S, abs=0.05)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["first", "first", "second"], [None, "the same sound as track 1", None]),
        (["mix", "first", "second"], ["a mix of tracks 2 and 3", None, None]),
        (["mix with chords", "first", "chords"], ["a mix of tracks 2 and 3", None, "holds no speech"]),
        (["first", "second", "mix"], [None, None, "a mix of tracks 1 and 2"]),
    ],
    ids=str,
)
def test_same_sound_is_heard_once(
    names: list[str], expected: list[str | None], talkers: dict[str, Path], folder: Path, prepare: Preparer
) -> None:
    for codec in ("aac", "pcm_s16le"):
        path = mux(folder / f"same-{codec}.mkv", [talkers[name] for name in names], codec=codec)
        _, receipt = prepare(path)
        assert reasons(receipt) == expected
        assert receipt.is_complete


def test_two_microphones_in_one_room_are_not_the_same_sound(
    talkers: dict[str, Path], folder: Path, prepare: Preparer
) -> None:
    near, far = sound(talkers["mix"]), voices.from_afar(sound(talkers["mix"]))
    paths = [media.write_audio(folder / f"{name}.wav", each, S) for name, each in (("near", near), ("far", far))]
    assert reasons(prepare(mux(folder / "room.mkv", paths))[1]) == [None, None]


def test_track_in_another_language_is_an_alternative(talkers: dict[str, Path], folder: Path, prepare: Preparer) -> None:
    tags = ["-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=eng", "-disposition:a:0", "0"]
    path = mux(folder / "dubbed.mkv", [talkers["first"], talkers["second"]], *tags, "-disposition:a:1", "default")
    streams, receipt = prepare(path)
    assert heard(streams) == [2]
    assert reasons(receipt) == ["in another language (deu)", None]
    assert receipt.is_complete
    assert heard(prepare(path, "all")[0]) == [1, 2]
    streams, receipt = prepare(path, 1)
    assert heard(streams) == [1]
    assert reasons(receipt) == [None, "transcribe.tracks asks for track 1"]


def test_alternative_is_heard_where_the_default_track_is_silent(
    talkers: dict[str, Path], folder: Path, prepare: Preparer
) -> None:
    tags = ["-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=eng"]
    streams, receipt = prepare(mux(folder / "silent.mkv", [talkers["nothing"], talkers["second"]], *tags))
    assert heard(streams) == [2]
    assert reasons(receipt) == ["silent", None]


@pytest.mark.parametrize(("flag", "what"), [("comment", "a commentary"), ("visual_impaired", "an audio description")])
def test_commentary_is_an_alternative(
    flag: str, what: str, talkers: dict[str, Path], folder: Path, prepare: Preparer
) -> None:
    inputs = [talkers["first"], talkers["second"]]
    streams, receipt = prepare(mux(folder / "extra.mkv", inputs, "-disposition:a:1", flag))
    assert heard(streams) == [1]
    assert reasons(receipt) == [None, what]


def test_track_number_that_the_file_does_not_have_is_refused(talkers: dict[str, Path], prepare: Preparer) -> None:
    with pytest.raises(errors.JobError, match="asks for track 3"):
        prepare(talkers["first"], 3)


def test_each_track_has_its_own_start(talkers: dict[str, Path], folder: Path, prepare: Preparer) -> None:
    path = folder / "late.mkv"
    sources = ["-i", str(talkers["first"]), "-itsoffset", "45", "-i", str(talkers["second"])]
    media.ffmpeg(*sources, "-map", "0", "-map", "1", "-c:a", "aac", path)
    streams, receipt = prepare(path)
    assert [track.start_s for track in receipt.tracks] == pytest.approx([0, 45], abs=0.1)
    starts = [stream.speech[0].start / S for stream in streams]
    assert starts == pytest.approx([0.8, 47.3], abs=0.3)
    assert receipt.is_complete
    assert receipt.notes == ()
    late = streams[1].waveform
    assert late.pieces[0][0] == pytest.approx(45 * S, abs=0.1 * S)
    assert not media.samples_of(late)[: 44 * S].any()


def test_track_that_cannot_be_read_makes_the_transcript_incomplete(
    talkers: dict[str, Path], folder: Path, prepare: Preparer
) -> None:
    path = mux(folder / "half.mp4", [talkers["first"], talkers["second"]], codec="aac")
    content = path.read_bytes()
    at = content.rindex(b"mp4a", 0, content.rindex(b"esds"))
    path.write_bytes(content[:at] + b"drms" + content[at + 4 :])
    streams, receipt = prepare(path)
    assert heard(streams) == [1]
    assert not receipt.is_complete
    assert "protected" in (reasons(receipt)[1] or "")
    assert any("Track 2 could not be read" in note for note in receipt.notes)


@pytest.fixture(scope="module")
def tones(folder: Path) -> list[Path]:
    """Seven sounds that are neither speech nor the same."""
    return [media.write_audio(folder / f"tone-{at}.wav", media.tone(4, S, 300 + 70 * at, 0.1), S) for at in range(1, 8)]


def test_tracks_beyond_the_seventh_are_mixed_where_there_are_more_than_eight(
    talkers: dict[str, Path], tones: list[Path], folder: Path, front_end: FrontEnd
) -> None:
    inputs = [talkers["first"], *tones[:6], talkers["nothing"], talkers["second"], talkers["chords"]]
    path = mux(folder / "ten.mkv", inputs)
    with front_end.prepare(path, Preprocess(highpass_hz=0), "silero") as prepared:
        streams, receipt = prepared.streams, prepared.receipt
        assert [stream.track for stream in streams] == [1, None]
        expected = sound(talkers["second"]) + sound(talkers["chords"])
        assert media.similarity(media.samples_of(streams[1].waveform), expected) > 0.999
        assert np.abs(media.samples_of(streams[1].waveform)).max() == pytest.approx(10 ** (-3 / 20), rel=1e-3)
        assert streams[1].speech
    assert receipt.is_complete
    assert reasons(receipt) == [None, *["holds no speech"] * 6, "silent", None, None]
    assert receipt.notes == ("Tracks 9 and 10 were mixed: there are too many to transcribe each alone.",)


def test_mixed_tracks_keep_their_times_and_inverted_channels_do_not_cancel(
    talkers: dict[str, Path], tones: list[Path], folder: Path, prepare: Preparer
) -> None:
    second = sound(talkers["second"])
    inverted = media.write_audio(folder / "inverted.wav", np.stack((second, -0.9 * second), axis=1), S)
    sources = [word for tone in (*tones, inverted) for word in ("-i", str(tone))]
    sources += ["-itsoffset", "20", "-i", str(talkers["first"])]
    maps = [word for at in range(9) for word in ("-map", str(at))]
    path = folder / "late-mix.mkv"
    media.ffmpeg(*sources, *maps, "-c:a", "pcm_s16le", path)
    (stream,), receipt = prepare(path, highpass_hz=0, leveling="off")
    assert stream.track is None
    edges = [edge / S for piece in stream.waveform.pieces for edge in piece]
    assert edges == pytest.approx([0, len(second) / S, 20, 20 + len(sound(talkers["first"])) / S], abs=0.1)
    samples = media.samples_of(stream.waveform)
    assert media.similarity(samples[: len(second)], second) > 0.999
    assert media.similarity(samples[20 * S :], sound(talkers["first"])) > 0.999
    assert receipt.is_complete
    assert reasons(receipt)[7:] == [None, None]


def test_channels_beyond_the_seventh_are_mixed_where_a_track_has_more_than_eight(
    folder: Path, prepare: Preparer
) -> None:
    channels = [media.noise(4, S, 0.05, seed) for seed in range(11)]
    path = media.write_audio(folder / "eleven.wav", np.stack(channels, axis=1), S)
    streams, receipt = prepare(path, channels="split", highpass_hz=0)
    assert [stream.channel for stream in streams] == [1, 2, 3, 4, 5, 6, 7, None]
    for stream, expected in zip(streams, (*channels[:7], np.sum(channels[7:], axis=0)), strict=True):
        assert media.similarity(media.samples_of(stream.waveform), expected) > 0.999
    assert receipt.is_complete
    assert "Its channels 8 to 11 were mixed: there are too many to transcribe each alone." in receipt.notes


def test_copies_give_up_their_room_before_the_rest_is_examined(
    talkers: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch, prepare: Preparer
) -> None:
    n_free = []
    examine = examination.examine

    def look(*arguments: Any) -> Any:  # noqa: ANN401  # of whatever type
        n_free.append(prepare.files.n_free)
        return examine(*arguments)

    monkeypatch.setattr(preparing, "examine", look)
    prepare(mux(folder / "copies.mkv", [talkers["first"]] * 3 + [talkers["second"]]))
    assert n_free == [6, 6]


def test_split_tracks_that_share_one_channel_are_both_heard(
    talkers: dict[str, Path], folder: Path, prepare: Preparer
) -> None:
    first, second = sound(talkers["first"]), sound(talkers["second"])
    one = media.write_audio(folder / "one.wav", np.stack((first, media.noise(len(first) / S, S, 1e-3)), axis=1), S)
    both = media.write_audio(folder / "both.wav", np.stack((first, second), axis=1), S)
    streams, receipt = prepare(mux(folder / "shared.mkv", [one, both]), channels="split")
    assert (2, 2) in [(stream.track, stream.channel) for stream in streams]
    assert reasons(receipt) == [None, None]


def test_one_track_has_no_number(talkers: dict[str, Path], prepare: Preparer) -> None:
    streams, receipt = prepare(talkers["first"])
    assert heard(streams) == [None]
    assert reasons(receipt) == [None]
    assert receipt.tracks[0].duration_s == receipt.duration_s
