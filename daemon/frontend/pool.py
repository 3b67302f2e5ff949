"""The daemon's side: audio processes that are started once, reused, and replaced when they fail."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from daemon import errors
from daemon.config import Transcribe
from daemon.decode import (
    MAX_STREAMS,
    SAMPLE_RATE_HZ,
    MixedWaveform,
    NotARecordingError,
    RecordingFile,
    Waveform,
    open_unlinked,
)
from daemon.frontend.messages import (
    AudioFailed,
    AudioReady,
    Bug,
    Decoding,
    Encode,
    Encoded,
    MeasureRoom,
    Prepare,
    Probe,
    Probed,
    Ready,
    RoomMeasured,
    StoredAudio,
)
from daemon.frontend.prepared import Prepared, fits, open_stream
from daemon.frontend.process import CONVERT, AudioProcess
from daemon.host.turns import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Literal

    from daemon.config import Preprocess
    from daemon.frontend.messages import Request, Response
    from daemon.segment import Span

_POLL_S: Final = 0.25
# If a poll returns later than this, the machine or the service was suspended.
_MAX_POLL_S: Final = 30.0
_START_LIMIT_S: Final = 120.0
_PROBE_LIMIT_S: Final = 20.0
# The longest that preparing may take. It runs at 250 x real time; a network share may deliver 1 MB/s.
_LIMIT_S: Final = 60.0
_LIMIT_BYTES_PER_S: Final = 1e6
_LIMIT_TIMES_REAL_TIME: Final = 10.0
_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        errors.JobError,
        NotARecordingError,
        errors.TransientError,
        errors.NoPermissionError,
        errors.EngineUnavailableError,
    )
}
_ALL_HEARD: Final = Transcribe()
_INVALID: Final = "The decoder returned invalid data."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Encoding:
    """The format of an audio file for people, "mp3", "m4a" or "opus", and its tags."""

    form: Literal["mp3", "m4a", "opus"]
    title: str = ""
    date: str = ""


class DecoderError(Exception):
    """An audio process met an error in our own code; the text is its traceback."""


class FrontEnd:
    """Prepares recordings for any number of threads, in a bounded number of processes.

    Args:
        cache: folder on the disk for decoded audio.
        n_processes: how many recordings are prepared at the same time; None for one per core.
        monotonic: clock in seconds, injectable for tests.
    """

    def __init__(
        self, cache: Path, n_processes: int | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._n_free = n_processes or len(os.sched_getaffinity(0))
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._idle: list[AudioProcess] = []
        self._busy: set[AudioProcess] = set()
        self._is_closed = False
        self._is_reported = False

    def prepare(
        self,
        recording: RecordingFile | Path | int,
        settings: Preprocess,
        vad: Literal["silero", "energy", "off"],
        raise_if_stopped: Callable[[], None] = lambda: None,
        asr: Transcribe = _ALL_HEARD,
    ) -> Prepared:
        """Decode a recording, clean it, and find the speech in it.

        Args:
            recording: an open file, which stays open; or a path, opened without following links; or a descriptor,
                which is opened again.
            settings: the `preprocess` section of the configuration.
            vad: how speech is found.
            raise_if_stopped: called several times a second; it may raise errors.StoppedError to stop the work.
            asr: the `transcribe` section, which says what to hear of several tracks and channels.

        Returns:
            what the model hears; the caller closes it.

        Raises:
            errors.JobError: the file is not a recording, or damaged beyond reading, protected, empty or too
                long; or a codec crashed on it, did not finish, or took too much memory.
            errors.NoPermissionError: the file is not readable.
            errors.TransientError: the file is gone, its share does not answer, or the cache disk is full.
            errors.EngineUnavailableError: silero's weights are not installed.
            errors.StoppedError: from `raise_if_stopped`, or because the front end was closed.
            DecoderError: there is a bug in our own code.
        """
        with contextlib.ExitStack() as files:
            if not isinstance(recording, RecordingFile):
                recording = files.enter_context(RecordingFile.open(recording))
            audio = [files.enter_context(open_unlinked(self._cache)) for _ in range(MAX_STREAMS)]
            size, descriptors = recording.size, [file.fileno() for file in audio]

            def limit_s(decoded_s: float) -> float:
                audio_s = min(decoded_s, MAX_STREAMS * settings.max_duration_h * 3600)
                return _LIMIT_S + size / _LIMIT_BYTES_PER_S + audio_s / _LIMIT_TIMES_REAL_TIME

            request = Prepare(settings, vad, self._cache, asr.tracks, asr.channels)
            with waiting(), self._turn(raise_if_stopped):
                response = self._ask(request, (recording.descriptor, *descriptors), limit_s, raise_if_stopped)
            if not isinstance(response, AudioReady) or not fits(response, descriptors):
                raise errors.JobError(_INVALID, CONVERT)
            return Prepared(tuple(open_stream(stream, descriptors) for stream in response.streams), response.receipt)

    def encode(
        self,
        waveform: Waveform | MixedWaveform,
        encoding: Encoding,
        span: Span | None = None,
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> io.FileIO:
        """Write cleaned audio in a format that browsers play, in memory that does not depend on its length.

        Args:
            waveform: the audio of a recording, which stays open.
            encoding: the format, and the tags of the file.
            span: the samples to write; None for all.
            raise_if_stopped: as in `prepare`.

        Returns:
            an unlinked file with the result; the caller closes it.

        Raises:
            errors.JobError: an encoder crashed, did not finish, or took too much memory.
            errors.TransientError: the cache disk is full.
            errors.StoppedError: from `raise_if_stopped`, or because the front end was closed.
            DecoderError: there is a bug in our own code.
        """
        raise_if_stopped()  # a short one is done before it is asked again
        start, stop = (0, waveform.n_samples) if span is None else (span.start, span.stop)
        parts = waveform.parts if isinstance(waveform, MixedWaveform) else [waveform]
        request = Encode(
            tuple(StoredAudio(part.n_samples, part.gain) for part in parts),
            encoding.form,
            encoding.title,
            encoding.date,
            self._cache,
            start,
            stop,
        )
        limit_s = _LIMIT_S + (stop - start) / SAMPLE_RATE_HZ / _LIMIT_TIMES_REAL_TIME
        with open_unlinked(self._cache) as file:
            descriptors = (file.fileno(), *(part.file.fileno() for part in parts))
            with waiting(), self._turn(raise_if_stopped):
                response = self._ask(request, descriptors, lambda _: limit_s, raise_if_stopped)
            if not isinstance(response, Encoded):
                raise errors.JobError(_INVALID, CONVERT)
            file.seek(0)  # the audio process has moved it
            return io.FileIO(os.dup(file.fileno()), "r+b")

    def is_recording(self, path: Path) -> bool:
        """Return whether a file is a recording, even a damaged one; does not wait for other work.

        Raises:
            errors.NoPermissionError: the file is not readable.
            errors.TransientError: the file is gone, or its disk or share does not answer.
        """
        try:
            source = RecordingFile.open(path)
        except errors.JobError:  # a link, a pipe, an empty file
            return False
        with source:
            try:
                response = self._ask(Probe(), (source.descriptor,), lambda _: _PROBE_LIMIT_S, lambda: None)
            except errors.JobError:  # a file that crashes a codec moves to failed, with its reason
                return True
        return isinstance(response, Probed) and response.is_recording

    def measure_room(self, path: Path, settings: Preprocess, asr: Transcribe) -> int | None:
        """Return how many bytes the audio of a recording takes at most; does not wait for other work.

        Args:
            path: the recording.
            settings: the `preprocess` section of the configuration.
            asr: the `transcribe` section.

        Returns:
            bytes by its headers, None where it will not be decoded.

        Raises:
            errors.NoPermissionError: the file is not readable.
            errors.TransientError: the file is gone, or its disk or share does not answer.
        """
        request = MeasureRoom(asr.tracks, asr.channels, 3600.0 * settings.max_duration_h)
        try:
            with RecordingFile.open(path) as source:
                response = self._ask(request, (source.descriptor,), lambda _: _PROBE_LIMIT_S, lambda: None)
        except errors.JobError:  # decoding fails, too, and says why
            return None
        return response.n_bytes if isinstance(response, RoomMeasured) else None

    def close(self) -> None:
        """End all processes; threads that wait for one get errors.StoppedError."""
        with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for process in self._busy:
                process.kill()  # the thread that waits for it cleans up
            self._changed.notify_all()
        for process in idle:
            process.end()

    @contextlib.contextmanager
    def _turn(self, raise_if_stopped: Callable[[], None]) -> Iterator[None]:
        """Wait until fewer recordings are being prepared than may be."""
        with self._changed:
            while self._n_free == 0:
                raise_if_stopped()
                self._raise_if_closed()
                self._changed.wait(_POLL_S)
            self._n_free -= 1
        try:
            yield
        finally:
            with self._changed:
                self._n_free += 1
                self._changed.notify()

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise errors.StoppedError("The service is stopping.")

    def _ask(
        self,
        request: Request,
        descriptors: tuple[int, ...],
        limit_s: Callable[[float], float],
        raise_if_stopped: Callable[[], None],
    ) -> Response:
        """Send a request to a process and wait for the response; a process that misbehaves is ended."""
        process = self._take(raise_if_stopped)
        is_reusable = False
        try:
            process.channel.send(request, *descriptors)
            response = self._await(process, limit_s, raise_if_stopped)
            is_reusable = _can_go_on(response)
        except (EOFError, OSError):
            self._raise_if_closed()
            raise process.explain_death() from None
        except ValueError:  # not one of our messages
            raise errors.JobError(_INVALID, CONVERT) from None
        finally:
            self._put_back(process, is_reusable=is_reusable)
        if isinstance(response, Bug):
            raise DecoderError(response.traceback)
        if isinstance(response, AudioFailed):
            raise _ERRORS.get(response.error, errors.JobError)(response.what, response.remedy)
        return response

    def _take(self, raise_if_stopped: Callable[[], None]) -> AudioProcess:
        """Return an idle process that is alive, or a new one."""
        with self._changed:
            self._raise_if_closed()
            while self._idle:
                process = self._idle.pop()
                if process.is_alive():
                    self._busy.add(process)
                    return process
                process.end()
            process = AudioProcess()
            self._busy.add(process)
        is_started = False
        try:
            response = self._await(process, lambda _: _START_LIMIT_S, raise_if_stopped)
            if is_started := isinstance(response, Ready):
                self._report_missing(response.missing)
        except (EOFError, OSError, ValueError):
            self._raise_if_closed()
        finally:
            if not is_started:
                self._put_back(process, is_reusable=False)
        if not is_started:
            raise errors.TransientError("The decoder process did not start.", "See the service's log.")
        return process

    def _report_missing(self, protections: tuple[str, ...]) -> None:
        """Log, once, which protections of audio processes the kernel does not offer."""
        with self._changed:
            is_new = bool(protections) and not self._is_reported
            self._is_reported |= is_new
        if is_new:
            log.warning("decoder.sandbox_incomplete", missing=list(protections), remedy="Run `scribed check`.")

    def _put_back(self, process: AudioProcess, *, is_reusable: bool) -> None:
        with self._changed:
            self._busy.discard(process)
            is_kept = is_reusable and not self._is_closed
            if is_kept:
                self._idle.append(process)
        if not is_kept:
            process.end()

    def _await(
        self, process: AudioProcess, limit_s: Callable[[float], float], raise_if_stopped: Callable[[], None]
    ) -> Response:
        """Wait for a response; time in which this process was frozen does not count.

        The limit depends on how much audio was decoded so far, in seconds.
        """
        took_s, last_s, decoded_s = 0.0, self._monotonic(), 0.0
        while (response := process.channel.poll(_POLL_S)) is None or isinstance(response, Decoding):
            if response is not None:
                decoded_s = response.audio_s
            raise_if_stopped()
            now_s = self._monotonic()
            took_s, last_s = took_s + min(now_s - last_s, _MAX_POLL_S), now_s
            if took_s > limit_s(decoded_s):
                if process.waits_for_disk():
                    raise errors.TransientError(
                        "The recording cannot be read: its disk or share does not answer.",
                        "Check that the disk or share is available.",
                    )
                log.warning("decoder.hung", took_s=round(took_s))
                raise errors.JobError(f"Decoding timed out after {took_s / 60:.0f} minutes.", CONVERT)
        return response


def _can_go_on(response: Response) -> bool:
    """Return whether the process that sent this response can be used again."""
    if isinstance(response, AudioFailed):
        # One that ran out of memory may be in any state; one without the VAD's weights can no longer load them.
        return response.error in _ERRORS and response.error != errors.EngineUnavailableError.__name__
    return not isinstance(response, Bug)
