"""The straight line of one recording, from its file to its transcript, in two stages.

No queue, no signal, no folder protocol: a path goes in, a transcript comes out.
"""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import wait
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from daemon.decode import RecordingFile
from daemon.host.clock import now
from daemon.pipeline.confidence import calibrate
from daemon.pipeline.recognition import ChunkTranscriber, SpeechMap
from daemon.pipeline.revision import revise
from daemon.pipeline.streams import HeardStream, assemble_streams, measure_streams, report_shares, stream_key
from daemon.pipeline.work import PreparedRecording
from daemon.segment import cut
from daemon.transcript import Processing, Source, Transcript

if TYPE_CHECKING:
    from collections.abc import Generator

    from daemon.config import Config, Preprocess, RecordingSettings, SegmentSettings, Transcribe
    from daemon.engine import Engine
    from daemon.frontend import FrontEnd
    from daemon.pipeline.recognition import Wait
    from daemon.pipeline.work import Recording, RunControl
    from daemon.transcript import ModelIdentity, Receipt

_POLL_S: Final = 0.25
# Keys of `transcribe` that change what is done with the words, not which words the model hears. A key
# that is missing here costs a second transcription after a change; one too many would deliver old text.
_WORDLESS: Final = frozenset({"channel_names", "chinese_script", "corrections", "language_from_name", "speakers"})

log = structlog.get_logger()


def transcribe(
    recording: Recording, config: Config, front_end: FrontEnd, engine: Engine, control: RunControl
) -> Transcript:
    """Return the transcript of one recording: both stages, one after the other, on the caller's thread.

    Raises:
        JobError: the recording cannot be transcribed.
        TransientError, NoPermissionError: something outside it is in the way.
        EngineLostError: the model is lost.
        StoppedError: `control` stopped the work.
    """
    with prepare(recording, config, front_end, control) as prepared:
        return finish(prepared, config, engine, control)


def finish(prepared: PreparedRecording, config: Config, engine: Engine, control: RunControl) -> Transcript:
    """Do the second stage on the caller's thread; see `transcribe_prepared`."""
    with closing(transcribe_prepared(prepared, config, engine, control)) as steps:
        return _wait_through(steps, control)


def prepare(recording: Recording, config: Config, front_end: FrontEnd, control: RunControl) -> PreparedRecording:
    """Do the first stage: decode a recording, clean it and find the speech in it; the caller closes what is returned.

    It needs no engine, so recordings can be prepared while others are transcribed.

    Raises:
        JobError, TransientError, NoPermissionError, StoppedError: as `transcribe`.
    """
    started_at, started_s = now(), time.monotonic()
    settings = recording.settings.of_name(recording.path.rpartition("/")[2])
    recording = replace(recording, settings=settings)
    with RecordingFile.open(recording.audio) as file:
        source = _describe(recording, file, control)
        sound = front_end.prepare(file, settings.audio, config.segment.vad, control.raise_if_stopped, settings.asr)
    return PreparedRecording(recording, source, sound, started_at, time.monotonic() - started_s)


def transcribe_prepared(
    prepared: PreparedRecording, config: Config, engine: Engine, control: RunControl
) -> Generator[Wait, None, Transcript]:
    """Do the second stage without holding a thread: yield what has to be waited for, return the transcript.

    Close the generator to give the work up. It does not close the audio.

    Raises:
        JobError, TransientError, NoPermissionError, EngineLostError, StoppedError: as `transcribe`.
    """
    started_s = time.monotonic()
    recording, source, sound = prepared.recording, prepared.source, prepared.sound
    settings = recording.settings
    hotwords, n_left_out = engine.fit_hotwords(settings.asr.hotwords)
    key = resume_key(source, config, settings, engine.identity)
    heard: list[HeardStream] = []
    for at, stream in enumerate(sound.streams):
        speech = SpeechMap(stream.speech, is_sure=config.segment.vad == "silero")
        n_samples = stream.waveform.n_samples
        chunks = cut(speech.spans, n_samples, config.segment.max_chunk_s, config.segment.overlap_s)
        results = yield from ChunkTranscriber(
            job_id=recording.job_id,
            waveform=stream.waveform,
            speech=speech,
            language=settings.asr.forced_language,
            hotwords=hotwords,
            engine=engine,
            control=replace(control, progress=report_shares(control.progress, sound.streams, at)),
            resume_key=stream_key(key, stream),
            echoes=stream.echoes,
        ).steps(chunks)
        heard.append(HeardStream(stream, speech, results))
    segments = assemble_streams(heard)
    if control.calibration is not None:  # its curve is for the model's own words
        segments = calibrate(segments, control.calibration.curve)
    segments, notes = revise(segments, settings.asr)
    for note in notes:
        log.warning("job.correction_skipped", job_id=recording.job_id, what=note)
    if notes:
        control.warn("; ".join(notes))
    receipt = _with_notes(sound.receipt, settings.with_notes(notes), n_left_out)
    if any(stream.channel is not None for stream in sound.streams):
        receipt = replace(receipt, channel_names=settings.asr.channel_names)
    # The time between the stages, in which the engine had other recordings, says nothing about this one.
    wall_s = prepared.took_s + time.monotonic() - started_s
    rtfx = receipt.duration_s / max(wall_s, 1e-3)
    return Transcript(
        job_id=recording.job_id,
        source=source,
        audio=receipt,
        model=engine.identity,
        segments=segments,
        coverage=measure_streams(receipt, heard),
        processing=Processing(recording.attempt, prepared.started_at, now(), wall_s, rtfx),
        calibration=None if control.calibration is None else control.calibration.facts,
    )


def _wait_through(steps: Generator[Wait, None, Transcript], control: RunControl) -> Transcript:
    """Wait for one thing after the other, and look at times whether to stop."""
    while True:
        try:
            pending = next(steps)
        except StopIteration as end:
            transcript: Transcript = end.value
            return transcript
        control.raise_if_stopped()
        while not wait([pending], timeout=_POLL_S).done:
            control.raise_if_stopped()


def resume_key(source: Source, config: Config, settings: RecordingSettings, model: ModelIdentity) -> str:
    """Return a digest of all that decides which words the model writes.

    Texts of finished chunks are used again under the same key only. The documents' formats are not
    in it, nor the device: text stays good when a recording is resumed on another GPU.
    """
    others = _other_facts.as_json(settings.audio, config.segment, settings.asr, model)
    return hashlib.sha256(f'{{"audio": "{source.sha256}", {others[1:]}'.encode()).hexdigest()


class _OtherFacts:
    """What decides the words besides the audio. Most recordings share it, so the last answer is kept."""

    def __init__(self) -> None:
        self._last: tuple[tuple[object, ...], str] = (), ""

    def as_json(self, audio: Preprocess, segment: SegmentSettings, asr: Transcribe, model: ModelIdentity) -> str:
        """Return it as JSON, sorted by key."""
        made_from, text = self._last
        if made_from != (audio, segment, asr, model):
            facts = {
                "preprocess": audio.model_dump(mode="json"),
                "segment": segment.model_dump(mode="json"),
                "transcribe": asr.model_dump(mode="json", exclude=set(_WORDLESS)),
                "model": [model.name, model.digest, model.dtype],
            }
            text = json.dumps(facts, sort_keys=True)
            self._last = (audio, segment, asr, model), text
        return text


_other_facts: Final = _OtherFacts()


def _describe(recording: Recording, file: RecordingFile, control: RunControl) -> Source:
    """Return what the file is."""
    return Source(
        name=recording.path.rpartition("/")[2],
        path=recording.path,
        sha256=file.sha256(control.raise_if_stopped),
        n_bytes=file.size,
        modified_at=_as_utc(file.modified_s),
    )


def _as_utc(time_s: float) -> str:
    """Return a time stamp as ISO 8601; one that no calendar has, from a broken clock, as 1970."""
    try:
        at = datetime.fromtimestamp(time_s, UTC)
    except (ValueError, OverflowError, OSError):
        at = datetime.fromtimestamp(0, UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _with_notes(receipt: Receipt, settings: RecordingSettings, n_left_out: int) -> Receipt:
    """Return the receipt with what there is to say about the settings."""
    for note in settings.notes:
        receipt = receipt.with_note(note)
    if not n_left_out:
        return receipt
    note = f"{n_left_out} of {len(settings.asr.hotwords)} hotwords were left out: the model takes no more"
    return receipt.with_note(note)
