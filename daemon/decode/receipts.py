"""The receipt of a recording: what was found in its tracks and done to them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from daemon.decode.envelope import outline
from daemon.transcript import Receipt, TrackFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.decode.cleaning import Cleaned, CleanedTrack


def make_receipt(cleaned: Cleaned, heard: Sequence[CleanedTrack], notes: Sequence[str] = ()) -> Receipt:
    """Return the receipt of a recording.

    Args:
        cleaned: what was decoded; `left_out` says why each track that is not heard is not.
        heard: the tracks that are transcribed, one or more.
        notes: sentences about the whole recording.
    """
    first = heard[0]
    levels, dynamics = first.levels, first.streams[0].dynamics
    is_alone = len(cleaned.all_tracks) == 1
    own_notes = [
        note if is_alone else f"Track {each.track.number}: {note[0].lower()}{note[1:]}"
        for each in heard
        for note in _notes(each)
    ]
    faults = [track for track in cleaned.all_tracks if track.fault is not None and track.number not in cleaned.left_out]
    own_notes += [f"Track {track.number} could not be read: {track.fault.what}" for track in faults if track.fault]
    return Receipt(
        duration_s=max(each.end_s for each in heard),
        sample_rate_hz=first.track.rate_hz,
        channels=first.track.channels,
        codec=first.track.codec,
        peak_dbfs=dynamics.peak_dbfs,
        gain_db=20 * math.log10(first.streams[0].waveform.gain),
        clipped_s=max(each.levels.clipped_s for each in heard),
        is_complete=not faults and all(each.is_complete for each in heard),
        notes=(*own_notes, *notes),
        level_dbfs=dynamics.level_dbfs,
        crest_db=dynamics.crest_db,
        snr_db=dynamics.estimate_snr_db(),
        dc_offset=levels.dc_offset,
        n_invalid=sum(each.levels.n_invalid for each in heard),
        peaks=outline([(part.dynamics.envelope, part.waveform.gain) for each in heard for part in each.streams]),
        tracks=tuple(_list_tracks(cleaned, heard)),
    )


def _list_tracks(cleaned: Cleaned, heard: Sequence[CleanedTrack]) -> Iterator[TrackFacts]:
    """Yield every audio track of the file with what became of it."""
    decoded = {each.track.number: each for each in cleaned.tracks}
    used = {each.track.number for each in heard}
    for track in cleaned.all_tracks:
        each = decoded.get(track.number)
        reason = cleaned.left_out.get(track.number)
        if reason is None and track.fault is not None:
            reason = track.fault.what
        yield TrackFacts(
            index=track.number,
            codec=track.codec,
            channels=track.channels,
            language=track.language,
            title=track.title,
            start_s=each.start_s if each else 0.0,
            duration_s=each.end_s - each.start_s if each else track.declared_s or 0.0,
            is_used=track.number in used,
            reason=None if track.number in used else reason,
        )


def _notes(each: CleanedTrack) -> Iterator[str]:
    """Yield sentences about one track."""
    track, levels, dynamics = each.track, each.levels, each.streams[0].dynamics
    yield from track.notes
    if each.is_short:
        declared, heard = spoken(track.declared_s or 0.0), spoken(levels.duration_s)
        yield f"The file declares a length of {declared}, but only {heard} could be read."
    click = dynamics.find_click()
    if click is not None:
        at, above_db = spoken(click[0]), click[1]
        yield f"A click or DC step at {at} is {above_db:.0f} dB louder than the rest and limits normalization."
    yield from levels.notes(_loudest_dbfs(each))


def _loudest_dbfs(each: CleanedTrack) -> float | None:
    peaks = [part.dynamics.peak_dbfs for part in each.streams]
    return max((peak for peak in peaks if peak is not None), default=None)


def spoken(duration_s: float) -> str:
    """Return a duration as people write it: "7.5 s" or "1:02:03"."""
    if duration_s < 60:  # noqa: PLR2004  # a minute
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
