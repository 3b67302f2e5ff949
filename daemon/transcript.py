"""The transcript of one recording and every fact its documents tell: frozen, without any I/O.

Times are seconds from the start of the recording, as floats. `None` stands for unknown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from daemon.text import join_texts


@dataclass(frozen=True, slots=True)
class Source:
    """The recording as it was dropped."""

    name: str
    path: str  # within the inbox, with "/" between folders
    sha256: str
    n_bytes: int
    modified_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class Receipt:
    """What preprocessing saw in the recording and did to it.

    Attributes:
        duration_s: length of what could be decoded.
        sample_rate_hz: of the recording, before resampling.
        peak_dbfs: highest level after mixing, filtering and resampling, before the gain.
        gain_db: what was then added; 0 where nothing was normalised.
        clipped_s: time the recording spends at full scale.
        is_complete: whether all that the file declared could be decoded.
        notes: plain sentences for people, such as "left channel is silent".
        level_dbfs: RMS level, like the following ones before the gain; None where nobody can tell.
        crest_db: how far the peak lies above it.
        snr_db: how far the sound stands above the noise, an estimate.
        dc_offset: as a share of full scale.
        n_invalid: samples that were no numbers, replaced by silence.
    """

    duration_s: float
    sample_rate_hz: int
    channels: int
    codec: str
    peak_dbfs: float | None
    gain_db: float
    clipped_s: float
    is_complete: bool = True
    notes: tuple[str, ...] = ()
    level_dbfs: float | None = None
    crest_db: float | None = None
    snr_db: float | None = None
    dc_offset: float = 0.0
    n_invalid: int = 0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model wrote the text: `digest` is the sha256 of its weights."""

    name: str
    digest: str
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech and its text.

    Attributes:
        language: the model's name for it, such as "English", or None.
        flags: "overlap" where text was merged over a cut without a pause, "retried" where the
            model had to be asked again on smaller pieces.
    """

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """Speech that is not in the text, and why."""

    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the recording was speech, and how much of that is in the text."""

    audio_s: float
    speech_s: float
    transcribed_s: float
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Processing:
    """When and how fast the work was done; rtfx is seconds of audio per second of work."""

    attempt: int
    started_at: str
    finished_at: str
    wall_s: float
    rtfx: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that is known about one recording when its work is done."""

    job_id: str
    source: Source
    audio: Receipt
    model: ModelIdentity
    coverage: Coverage
    processing: Processing
    segments: tuple[Segment, ...] = field(default=())

    @property
    def text(self) -> str:
        """All words, joined with the spacing of their language."""
        return join_texts(segment.text for segment in self.segments)

    @property
    def language(self) -> str | None:
        """The language spoken for the longest time, or None where there is none."""
        spoken_s: Counter[str] = Counter()
        for segment in self.segments:
            if segment.language is not None and segment.text:
                spoken_s[segment.language] += max(1, round(1000 * (segment.end_s - segment.start_s)))
        return spoken_s.most_common(1)[0][0] if spoken_s else None

    @property
    def is_complete(self) -> bool:
        """Whether all speech of the whole recording is in the text."""
        return self.audio.is_complete and not self.coverage.gaps
