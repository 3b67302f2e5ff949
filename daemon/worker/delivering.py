"""The last step of a run: its documents, with a listening copy and clips, go to the outbox."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from daemon.documents import LISTENING_COPIES, Sound, render
from daemon.errors import ChangedError
from daemon.journal.records import Result
from daemon.pipeline import make_clips, make_listening_copy
from daemon.worker.duplicates import Duplicates

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Sequence

    from daemon.config import RecordingSettings
    from daemon.documents import Clip
    from daemon.host import files
    from daemon.transcript import Transcript
    from daemon.worker.resources import Resources
    from daemon.worker.runs import Run


class Delivering:
    """Makes the documents of transcripts and delivers them.

    Args:
        resources: folders, journal and front end.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._duplicates = Duplicates(resources.journal)

    def deliver(self, run: Run, transcript: Transcript, raise_if_stopped: Callable[[], None]) -> Transcript:
        """Deliver a transcript; return it with what was noted on the way.

        Raises:
            ChangedError: the recording has changed since; its texts are dropped.
            NoPermissionError, TransientError: it can be tried again.
        """
        settings, prepared, front_end = run.settings, run.prepared, self._resources.front_end
        if settings is None or prepared is None:
            raise AssertionError("a run is prepared with its settings")
        run.leave_engine()
        copy, no_copy = make_listening_copy(prepared, front_end, raise_if_stopped)
        with copy or nullcontext():
            has_page = "html" in settings.output.formats
            clips, no_clips = make_clips(prepared, transcript, front_end, raise_if_stopped) if has_page else ([], None)
            run.release()
            for problem in filter(None, (no_copy, no_clips)):
                transcript = transcript.with_note(problem)
            return self._deliver_with(run, self._duplicates.mark(transcript), settings, copy, clips)

    def forget(self, job_id: str) -> None:
        """Note that a run has ended."""
        self._duplicates.forget(job_id)

    def _deliver_with(
        self,
        run: Run,
        transcript: Transcript,
        settings: RecordingSettings,
        copy: io.FileIO | None,
        clips: Sequence[Clip],
    ) -> Transcript:
        job, resources, form = run.job, self._resources, settings.output.listening_copy
        if (note := resources.spool.explain_second_set(job)) is not None:
            transcript = transcript.with_note(note)
        documents: dict[str, files.Content] = {}
        if copy is not None and form is not None:
            documents[LISTENING_COPIES[form]] = copy
        documents |= render(
            transcript,
            settings.output.formats,
            has_timestamps=settings.output.timestamps,
            sound=Sound((resources.spool.audio_folder(job),), tuple(documents), tuple(clips)),
        )
        source = transcript.source
        result = Result(
            transcript.audio.duration_s,
            transcript.processing.wall_s,
            transcript.is_complete,
            source.sha256,
            source.duplicate_of,
        )
        try:
            resources.spool.deliver(job, documents, result, run.fingerprint)
        except ChangedError:
            resources.journal.drop_chunks(job.job_id)
            raise
        return transcript
