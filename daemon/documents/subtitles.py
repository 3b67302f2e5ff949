"""The srt and vtt documents.

A segment can be half a minute long. Without word timestamps, its cues share its time by the length
of their text, which is off by a second or so in the middle of a long segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.documents.cues import make_cues

if TYPE_CHECKING:
    from daemon.documents.layout import Options
    from daemon.transcript import Transcript

_MS_PER_S: Final = 1000
_MS_PER_MINUTE: Final = 60_000
_MS_PER_HOUR: Final = 3_600_000


def render_srt(transcript: Transcript, options: Options) -> str:
    """Return SubRip subtitles; "" without speech."""
    del options
    blocks = (
        f"{number}\n{_stamp(cue.start_s, ',')} --> {_stamp(cue.end_s, ',')}\n{cue.text}\n"
        for number, cue in enumerate(make_cues(transcript), 1)
    )
    return "\n".join(blocks)


def render_vtt(transcript: Transcript, options: Options) -> str:
    """Return WebVTT subtitles (https://www.w3.org/TR/webvtt1/), with its reserved characters escaped."""
    del options
    blocks = (
        f"{_stamp(cue.start_s, '.')} --> {_stamp(cue.end_s, '.')}\n{_escape(cue.text)}\n"
        for cue in make_cues(transcript)
    )
    return "\n".join(["WEBVTT\n", *blocks])


def _stamp(time_s: float, point: str) -> str:
    ms = round(time_s * _MS_PER_S)
    minutes, seconds = ms // _MS_PER_MINUTE % 60, ms // _MS_PER_S % 60
    return f"{ms // _MS_PER_HOUR:02}:{minutes:02}:{seconds:02}{point}{ms % _MS_PER_S:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
