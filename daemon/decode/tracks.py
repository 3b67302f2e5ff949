"""The audio tracks of a file, and which of them are to be heard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from daemon import errors

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class AudioTrack:
    """One audio track of a file, as a reader sees it.

    Attributes:
        number: from 1, among the audio tracks.
        rate_hz: sample rate of what the reader gives.
        channels: number of channels of what the reader gives.
        codec: name of the encoding, such as "pcm_16" or "mp3".
        declared_s: length that the file declares, None if it declares none.
        declares_end: whether that is when it ends, counted from the start of the recording.
        slack_s: how much shorter the audio may be without anything missing.
        fault: why it cannot be read; None where it can.
        language: its tag, such as "deu"; None without one.
        title: what the program that made it calls it.
        is_default: whether a player takes it by itself.
        extra: what it is if it is not the programme itself, such as "a commentary"; None for the programme.
        has_junk: after the pass, whether data that is not audio of this track was skipped.
        is_damaged: after the pass, whether anything was skipped or replaced by silence.
        notes: sentences for people, complete after the pass.
    """

    number: int
    rate_hz: int
    channels: int
    codec: str
    declared_s: float | None = None
    slack_s: float = 0.0
    declares_end: bool = False
    fault: errors.JobError | None = None
    language: str | None = None
    title: str | None = None
    is_default: bool = False
    extra: str | None = None
    has_junk: bool = False
    is_damaged: bool = False
    notes: list[str] = field(default_factory=list)


def choose(
    tracks: Sequence[AudioTrack], wanted: Literal["auto", "all"] | int | tuple[int, ...]
) -> tuple[tuple[AudioTrack, ...], dict[int, str]]:
    """Choose the tracks to read by what the file says about them.

    Args:
        tracks: all audio tracks of the file.
        wanted: the setting `transcribe.tracks`, where `auto` is all but alternatives; or several numbers.

    Returns:
        (those to read, why each of the others is left out by its number).

    Raises:
        errors.JobError: there is no track of the wanted number.
    """
    left_out: dict[int, str] = {}
    if isinstance(wanted, int):
        if all(track.number != wanted for track in tracks):
            count = "one audio track" if len(tracks) == 1 else f"{len(tracks)} audio tracks"
            raise errors.JobError(
                f"The file has {count}, and transcribe.tracks asks for track {wanted}.",
                "Set transcribe.tracks to auto, or to a number that the file has.",
            )
        left_out = {track.number: f"transcribe.tracks asks for track {wanted}" for track in tracks}
        del left_out[wanted]
    elif isinstance(wanted, tuple):
        left_out = {track.number: "not asked for" for track in tracks if track.number not in wanted}
    elif wanted == "auto":
        left_out = _find_alternatives(tracks)
    return tuple(track for track in tracks if track.number not in left_out), left_out


def _find_alternatives(tracks: Sequence[AudioTrack]) -> dict[int, str]:
    """Return the tracks that a player offers in place of another, each with the reason, by number."""
    programme = [track for track in tracks if track.extra is None]
    left_out = {track.number: track.extra for track in tracks if track.extra is not None} if programme else {}
    first = next((track for track in programme if track.is_default), programme[0] if programme else None)
    if first is None or first.language is None:
        tagged = [track for track in programme if track.language is not None]
        first = tagged[0] if tagged else None
    for track in programme:
        if first is not None and track.language not in {None, first.language}:
            left_out[track.number] = f"in another language ({track.language})"
    return left_out
