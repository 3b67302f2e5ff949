"""From a recording to the streams that the model hears: which tracks and channels, and where there is speech."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from daemon.decode.cleaning import Cleaned, Wanted, decode
from daemon.decode.dynamics import SILENT_PEAK
from daemon.decode.receipts import make_receipt
from daemon.decode.sameness import find_same
from daemon.segment.echo_gain import find_echoes
from daemon.segment.echoes import leave_out_echoes
from daemon.segment.examination import complete, examine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.decode import AudioFiles, RecordingFile, Waveform
    from daemon.decode.cleaning import CleanedTrack
    from daemon.frontend.messages import Prepare
    from daemon.segment import Span
    from daemon.segment.examination import Examined
    from daemon.transcript import Receipt


# Of the time in which both channels sound: speech in both, and not a talker beside music or noise.
_MIN_TALK_SHARE: Final = 0.4


@dataclass(frozen=True, slots=True)
class FoundStream:
    """One stream with its speech.

    Attributes:
        track: from 1; None where the recording has one, or several were mixed.
        channel: from 1; None where channels were mixed.
        speech: spans in samples, in order and without overlaps.
        echoes: where only echoes of other streams are heard, likewise.
    """

    waveform: Waveform
    track: int | None
    channel: int | None
    speech: tuple[Span, ...]
    echoes: tuple[Span, ...]


def find_streams(
    source: RecordingFile, files: AudioFiles, request: Prepare, raise_if_stopped: Callable[[], None] = lambda: None
) -> tuple[tuple[FoundStream, ...], Receipt]:
    """Decode a recording and find the speech in it.

    Args:
        source: the recording.
        files: receive the audio.
        request: the settings.
        raise_if_stopped: called at least every two seconds; it may raise errors.StoppedError to end the work.

    Returns:
        (its streams, one or more, and the receipt of what was found and done).

    Raises:
        errors.JobError, errors.TransientError, errors.EngineUnavailableError, MemoryError: see `decode` and
            `complete`.
    """
    search = _Search(source, files, request, raise_if_stopped)
    cleaned = search.decode(Wanted(request.tracks, is_split=request.channels == "split"))
    if search.finds_nothing(cleaned):
        cleaned = search.try_alternatives(cleaned)
    cleaned, heard = search.leave_out(cleaned)
    if request.channels == "auto":
        heard = [each if _is_mixed(each, heard) else search.split_talkers(each) for each in heard]
    parts = {part.waveform: (each, part.channel) for each in heard for part in each.streams}
    is_alone = len(cleaned.all_tracks) == 1
    if len(parts) > 1 and request.vad != "off":
        search.leave_out_echoes(list(parts))
    streams = tuple(
        FoundStream(
            waveform,
            None if is_alone or _is_mixed(each, heard) else each.track.number,
            channel,
            search.speech(waveform),
            search.echoes(waveform),
        )
        for waveform, (each, channel) in parts.items()
    )
    completed = [(stream, *search.complete(stream.waveform)) for stream in streams]
    notes = [_name(stream, note) for stream, _, note in completed if note is not None]
    mixed = [each.track.number for each in heard if _is_mixed(each, heard)]
    if mixed:
        notes.append(f"Tracks {_list_numbers(mixed)} were mixed: there are too many to transcribe each alone.")
    receipt = make_receipt(cleaned, heard, notes)
    return streams, replace(receipt, leveled_db=max(leveled_db for _, leveled_db, _ in completed))


def _name(stream: FoundStream, note: str) -> str:
    """Return a note with the track and the channel that it is about, where there are several."""
    facts = (("track", stream.track), ("channel", stream.channel))
    where = ", ".join(f"{kind} {number}" for kind, number in facts if number is not None)
    return f"{where[0].upper()}{where[1:]}: {note[0].lower()}{note[1:]}" if where else note


class _Search:
    """The steps of one recording; it remembers the speech of each waveform."""

    def __init__(
        self, source: RecordingFile, files: AudioFiles, request: Prepare, raise_if_stopped: Callable[[], None]
    ) -> None:
        self._source = source
        self._files = files
        self._request = request
        self._raise_if_stopped = raise_if_stopped
        self._examined: dict[Waveform, Examined] = {}
        self._echoes: dict[Waveform, tuple[Span, ...]] = {}

    def decode(self, wanted: Wanted) -> Cleaned:
        return decode(self._source, self._files, self._request.settings, wanted, self._raise_if_stopped)

    def speech(self, waveform: Waveform) -> tuple[Span, ...]:
        """Return the speech of a waveform."""
        if waveform not in self._examined:
            self._examined[waveform] = examine(waveform, self._request.vad, self._raise_if_stopped)
        return self._examined[waveform].speech

    def leave_out_echoes(self, waveforms: Sequence[Waveform]) -> None:
        """Take echoes of each other out of the speech that was found in several streams."""
        for waveform in waveforms:
            self.speech(waveform)
        found = leave_out_echoes(waveforms, [self._examined[waveform] for waveform in waveforms])
        for waveform, speech in zip(waveforms, found, strict=True):
            self._echoes[waveform] = find_echoes(self.speech(waveform), speech, waveform.n_samples)
            self._examined[waveform] = replace(self._examined[waveform], speech=speech)

    def echoes(self, waveform: Waveform) -> tuple[Span, ...]:
        """Return where `leave_out_echoes` found echoes only in a waveform."""
        return self._echoes.get(waveform, ())

    def complete(self, waveform: Waveform) -> tuple[float, str | None]:
        """Level a stream of the result; return the most gain added, in dB, and a note or None."""
        request = self._request
        return complete(waveform, self._examined[waveform], request.settings, request.vad, self._raise_if_stopped)

    def _has_speech(self, each: CleanedTrack) -> bool:
        is_loud = any(part.dynamics.peak >= SILENT_PEAK for part in each.streams)
        return is_loud and any(self.speech(part.waveform) for part in each.streams)

    def finds_nothing(self, cleaned: Cleaned) -> bool:
        """Return whether what was decoded holds no speech, and something was left out that may hold some."""
        return (
            self._request.tracks == "auto"
            and bool(cleaned.left_out)
            and self._files.n_free > 0
            and not any(self._has_speech(each) for each in cleaned.tracks)
        )

    def try_alternatives(self, cleaned: Cleaned) -> Cleaned:
        """Return what is heard in the tracks that were left out, if any of them holds speech."""
        others = self.decode(Wanted(tuple(cleaned.left_out), is_split=self._request.channels == "split"))
        if not any(self._has_speech(each) for each in others.tracks):
            self._release(others.tracks)
            return cleaned
        found = {each.track.number: each.track for each in others.tracks}
        all_tracks = tuple(found.get(track.number, track) for track in cleaned.all_tracks)
        return Cleaned(all_tracks, (*cleaned.tracks, *others.tracks), {})

    def leave_out(self, cleaned: Cleaned) -> tuple[Cleaned, list[CleanedTrack]]:
        """Return the tracks that are worth hearing, and why the others are not."""
        loud = [each for each in cleaned.tracks if self._is_loud(each)]
        reasons = _find_same(loud)
        rest = [each for each in cleaned.tracks if each.track.number not in reasons]
        self._release([each for each in loud if each not in rest], rest)  # before the rest is examined
        heard = [each for each in rest if self._has_speech(each)] or [each for each in rest if each.streams][:1]
        left = [each for each in rest if each not in heard]
        self._release(left, heard)
        reasons |= {each.track.number: "holds no speech" if each in loud else "silent" for each in left}
        return replace(cleaned, left_out={**cleaned.left_out, **reasons}), heard

    def _is_loud(self, each: CleanedTrack) -> bool:
        return any(part.dynamics.peak >= SILENT_PEAK for part in each.streams)

    def split_talkers(self, each: CleanedTrack) -> CleanedTrack:
        """Return a track whose two channels are streams of their own if each has its own talker."""
        (mix,) = each.streams
        windows, speech = each.levels.windows, self.speech(mix.waveform)
        if self._files.n_free < 1:
            return each
        if windows.hold_two_talkers(_to_pairs(speech)):
            return self._decode_again(each, is_split=True)
        n_at_once = windows.count_talk_at_once(_to_pairs(speech)) if self._request.vad == "silero" else 0
        if n_at_once == 0:
            return each
        split = self._decode_again(each, is_split=True)
        left, right = (self.speech(part.waveform) for part in split.streams)
        if windows.count_talk_at_once(_find_both(left, right)) >= _MIN_TALK_SHARE * n_at_once:
            return split
        mixed = self._decode_again(split, is_split=False)
        self._examined[mixed.streams[0].waveform] = self._examined[mix.waveform]
        return mixed

    def _decode_again(self, each: CleanedTrack, *, is_split: bool) -> CleanedTrack:
        """Return a track with its channels split, or mixed."""
        self._release([each])
        (track,) = self.decode(Wanted((each.track.number,), is_split=is_split)).tracks
        return track

    def _release(self, tracks: Sequence[CleanedTrack], kept: Sequence[CleanedTrack] = ()) -> None:
        """Discard the audio of some tracks, but for what others are mixed into."""
        self._files.release(*_list_waveforms(tracks).keys() - _list_waveforms(kept).keys())


def _list_waveforms(tracks: Sequence[CleanedTrack]) -> dict[Waveform, list[int]]:
    """Return the waveforms of some tracks, each with the numbers of the tracks in it."""
    numbers: dict[Waveform, list[int]] = {}
    for each in tracks:
        for part in each.streams:
            numbers.setdefault(part.waveform, []).append(each.track.number)
    return numbers


def _is_mixed(each: CleanedTrack, tracks: Sequence[CleanedTrack]) -> bool:
    """Return whether a track is in one waveform with others of some tracks."""
    numbers = _list_waveforms(tracks)
    return any(len(numbers[part.waveform]) > 1 for part in each.streams)


def _find_same(tracks: Sequence[CleanedTrack]) -> dict[int, str]:
    """Return why tracks need not be heard whose sound is in others, by number."""
    numbers = _list_waveforms(tracks)
    waveforms = list(numbers)
    same = find_same(waveforms) if len(waveforms) > 1 else {}
    found = {waveforms[at]: {each for part in parts for each in numbers[waveforms[part]]} for at, parts in same.items()}
    reasons = {}
    for each in tracks:
        if all(part.waveform in found for part in each.streams):
            others = set.union(*(found[part.waveform] for part in each.streams)) - {each.track.number}
            reasons[each.track.number] = _describe_same(sorted(others))
    return reasons


def _to_pairs(speech: Sequence[Span]) -> list[tuple[int, int]]:
    return [(span.start, span.stop) for span in speech]


def _find_both(one: Sequence[Span], other: Sequence[Span]) -> list[tuple[int, int]]:
    """Return the (start, stop) where two streams both hold speech, in order."""
    both, at = [], 0
    for span in one:
        while at < len(other) and other[at].stop <= span.start:
            at += 1
        for candidate in other[at:]:
            if candidate.start >= span.stop:
                break
            both.append((max(span.start, candidate.start), min(span.stop, candidate.stop)))
    return both


def _describe_same(numbers: Sequence[int]) -> str:
    return f"{'the same sound as track' if len(numbers) == 1 else 'a mix of tracks'} {_list_numbers(numbers)}"


def _list_numbers(numbers: Sequence[int]) -> str:
    return " and ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))
