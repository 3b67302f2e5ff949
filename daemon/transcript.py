"""The transcript of one recording, with every fact that its documents show: frozen, without I/O.

Times are seconds from the start of the recording, as floats. None means unknown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from daemon.text import join_texts


@dataclass(frozen=True, slots=True)
class Source:
    """The recording as it was dropped."""

    name: str
    path: str  # within the inbox, with "/" between folders
    sha256: str
    n_bytes: int
    modified_at: str  # ISO 8601, UTC
    duplicate_of: str | None = None  # id of an earlier job with the same content


@dataclass(frozen=True, slots=True)
class TrackFacts:
    """One audio track of the recording.

    Attributes:
        index: from 1, among the audio tracks.
        language: its tag in the file, such as "deu".
        title: its title in the file.
        start_s: when it begins, from the start of the recording.
        is_used: whether it was transcribed.
        reason: why it was not.
    """

    index: int
    codec: str
    channels: int
    language: str | None
    title: str | None
    start_s: float
    duration_s: float
    is_used: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What preprocessing found in the recording and did to it.

    Where several tracks or channels are transcribed, levels are those of the first.

    Attributes:
        duration_s: length of what could be decoded.
        sample_rate_hz: of the recording, before resampling.
        peak_dbfs: highest level after mixing, filtering and resampling, before the gain.
        gain_db: what was then added; 0 without normalization.
        clipped_s: time the recording spends at full scale.
        is_complete: whether everything that the file declares could be decoded.
        notes: plain sentences for people, such as "left channel is silent".
        level_dbfs: RMS level, like the next ones before the gain.
        crest_db: the peak above it.
        snr_db: level of the signal above that of the noise, an estimate.
        dc_offset: as a share of full scale.
        n_invalid: samples that were not numbers, replaced by silence.
        leveled_db: the most gain that leveling added to a quiet stretch; 0 where it added none.
        peaks: outline of the cleaned audio: the highest level in each of at most 4,000 equal parts, 0 to 1.
        tracks: every audio track of the file.
        channel_names: who is on each channel, as the configuration says, where channels were transcribed by themselves.
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
    leveled_db: float = 0.0
    peaks: tuple[float, ...] = ()
    tracks: tuple[TrackFacts, ...] = ()
    channel_names: tuple[str, ...] = ()

    def with_note(self, note: str) -> Receipt:
        """Return the receipt with one more sentence for people."""
        return replace(self, notes=(*self.notes, note))


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model wrote the text: `digest` is the sha256 of its weights."""

    name: str
    digest: str
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """Where the confidence comes from: `scribed eval` compared that many words with what was spoken.

    Attributes:
        fitted_at: ISO 8601, UTC.
    """

    fitted_at: str
    n_words: int
    n_recordings: int


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a segment; times are None without an aligner, confidence is 0 to 1."""

    text: str
    start_s: float | None = None
    end_s: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech and its text.

    Attributes:
        language: the model's name for it, such as "English".
        flags: "overlap" where text was merged with that of the segment before, without a pause between
            them; "retried" where the chunk was split and transcribed again.
        words: of the text, in order; () where they are not known by themselves.
        speaker: id of one of the transcript's speakers.
        channel: of the recording, from 1; None where channels were mixed.
        track: of the recording, from 1; None where it has one.
        text_raw: the model's own words where `text` was changed.
        confidence: of the words together, 0 to 1.
    """

    start_s: float
    end_s: float
    text: str
    language: str | None = None
    flags: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    speaker: str | None = None
    channel: int | None = None
    track: int | None = None
    text_raw: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """One voice of the recording: its id, its name where it is known, and for how long it speaks."""

    speaker_id: str
    name: str | None
    speech_s: float


@dataclass(frozen=True, slots=True)
class SoundEvent:
    """A sound that is not speech, such as applause; the score is 0 to 1."""

    start_s: float
    end_s: float
    kind: str
    score: float


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
    """All that is known about one recording when it has been transcribed."""

    job_id: str
    source: Source
    audio: Receipt
    model: ModelIdentity
    coverage: Coverage
    processing: Processing
    segments: tuple[Segment, ...] = ()
    speakers: tuple[Speaker, ...] = ()
    events: tuple[SoundEvent, ...] = ()
    corrected_at: str | None = None  # when a person changed the text, ISO 8601, UTC
    calibration: Calibration | None = None  # None: the confidence is the model's own probability

    def with_note(self, note: str) -> Transcript:
        """Return the transcript with one more sentence for people."""
        return replace(self, audio=self.audio.with_note(note))

    @property
    def text(self) -> str:
        """All words, joined with the spacing of their language."""
        return join_texts(segment.text for segment in self.segments)

    @property
    def language(self) -> str | None:
        """The language that is spoken for the longest time, None without text."""
        spoken_s: Counter[str] = Counter()
        for segment in self.segments:
            if segment.language is not None and segment.text:
                spoken_s[segment.language] += max(1, round(1000 * (segment.end_s - segment.start_s)))
        return spoken_s.most_common(1)[0][0] if spoken_s else None

    @property
    def is_complete(self) -> bool:
        """Whether all speech of the whole recording is in the text."""
        return self.audio.is_complete and not self.coverage.gaps
