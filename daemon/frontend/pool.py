"""The daemon's side: decoder processes, started once and used again, and what becomes of bad ones."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from daemon import errors
from daemon.decode import SAMPLE_RATE_HZ, NotARecordingError, RecordingFile, Waveform, open_unlinked
from daemon.frontend.messages import Broken, Channel, Done, Look, Looked, Order, Ready, Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Literal

    from daemon.config import Preprocess
    from daemon.frontend.messages import Answer, Question
    from daemon.segment import Span
    from daemon.transcript import Receipt

_LOOK_S = 0.25
# A look that comes later than this was held up by something else: the machine or the service was frozen.
_MAX_LOOK_S = 30.0
_START_LIMIT_S = 120.0
_LOOK_LIMIT_S = 20.0
# The longest that a decoder may take. It manages 250 times real time; a share may give 1 MB/s.
_LIMIT_S = 60.0
_LIMIT_BYTES_PER_S = 1e6
_LIMIT_TIMES_REAL_TIME = 10.0
_SAMPLE_BYTES = 4
_DEATH_S = 2.0
_LAST_WORDS_BYTES = 2000
# Sent by the kernel where memory is short, or by a person: the recording is not to blame.
_NOBODYS_FAULT = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_ERRORS = {
    kind.__name__: kind
    for kind in (
        errors.JobError,
        NotARecordingError,
        errors.TransientError,
        errors.NoPermissionError,
        errors.EngineUnavailableError,
    )
}
_CONVERT = "The recording may be damaged: convert it with another program, for instance to FLAC, and try again."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recording as the model is to hear it; whoever gets it closes the waveform."""

    waveform: Waveform
    receipt: Receipt
    speech: tuple[Span, ...]


class DecoderError(Exception):
    """A decoder met an error in our own code; the text is its traceback."""


class FrontEnd:
    """Prepares recordings, any number of threads at a time, in a bounded number of processes.

    Args:
        cache: folder on the disk which holds decoded sound.
        n_decoders: how many recordings are prepared side by side; None for one on each core.
        monotonic: seconds that only ever grow.
    """

    def __init__(
        self, cache: Path, n_decoders: int | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._n_free = n_decoders or len(os.sched_getaffinity(0))
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._idle: list[_Decoder] = []
        self._busy: set[_Decoder] = set()
        self._is_closed = False
        self._is_reported = False

    def prepare(
        self,
        path: Path | int,
        settings: Preprocess,
        vad: Literal["silero", "energy", "off"],
        raise_if_stopped: Callable[[], None] = lambda: None,
    ) -> Prepared:
        """Decode a recording, clean it, and find the speech in it.

        Args:
            path: of the recording, opened without following links; or a descriptor of it.
            settings: the `preprocess` section of the configuration.
            vad: how speech is found.
            raise_if_stopped: called several times a second; it may raise errors.StoppedError to end the work.

        Raises:
            errors.JobError: it is no recording, damaged beyond reading, protected, empty or too
                long, or its decoder crashed, came to no end, or took too much memory.
            errors.NoPermissionError: it may not be read.
            errors.TransientError: it is gone, its share does not answer, or the cache disk is full.
            errors.EngineUnavailableError: silero's weights are not installed.
            errors.StoppedError: `raise_if_stopped` raised it, or the front end was closed.
            DecoderError: there is a mistake in our own code.
        """
        with RecordingFile.open(path) as source, open_unlinked(self._cache) as file:
            descriptor = file.fileno()

            def limit_s() -> float:
                sound_s = min(_sound_s(descriptor), settings.max_duration_h * 3600)
                return _LIMIT_S + source.size / _LIMIT_BYTES_PER_S + sound_s / _LIMIT_TIMES_REAL_TIME

            self._wait_for_turn(raise_if_stopped)
            try:
                answer = self._ask(
                    Order(settings, vad, self._cache), (source.descriptor, descriptor), limit_s, raise_if_stopped
                )
            finally:
                self._end_turn()
            if not isinstance(answer, Done) or not _is_sound(answer, descriptor):
                raise errors.JobError("Decoding this recording gave nonsense.", _CONVERT)
            waveform = Waveform(io.FileIO(os.dup(descriptor)), answer.n_samples, answer.gain)
            return Prepared(waveform, answer.receipt, answer.speech)

    def is_recording(self, path: Path) -> bool:
        """Return whether a file is a recording, a damaged one included; waits for no other work.

        Raises:
            errors.NoPermissionError: it may not be read.
            errors.TransientError: it is gone, or its disk or share does not answer.
        """
        try:
            source = RecordingFile.open(path)
        except errors.JobError:  # a link, a pipe, an empty file
            return False
        with source:
            try:
                answer = self._ask(Look(), (source.descriptor,), lambda: _LOOK_LIMIT_S, lambda: None)
            except errors.JobError:  # what a decoder dies of is to be set aside, with its reason
                return True
        return isinstance(answer, Looked) and answer.is_recording

    def close(self) -> None:
        """End all decoders; who still waits for one gets errors.StoppedError."""
        with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for decoder in self._busy:
                decoder.kill()  # the thread which waits for it does the rest
            self._changed.notify_all()
        for decoder in idle:
            decoder.end()

    def _wait_for_turn(self, raise_if_stopped: Callable[[], None]) -> None:
        """Wait until fewer recordings are being prepared than there are decoders."""
        with self._changed:
            while self._n_free == 0:
                raise_if_stopped()
                self._raise_closed()
                self._changed.wait(_LOOK_S)
            self._n_free -= 1

    def _end_turn(self) -> None:
        with self._changed:
            self._n_free += 1
            self._changed.notify()

    def _raise_closed(self) -> None:
        if self._is_closed:
            raise errors.StoppedError("The service is stopping.")

    def _ask(
        self,
        question: Question,
        descriptors: tuple[int, ...],
        limit_s: Callable[[], float],
        raise_if_stopped: Callable[[], None],
    ) -> Answer:
        """Let a decoder answer a question; it is ended unless it answers as it should."""
        decoder = self._take(raise_if_stopped)
        is_well = False
        try:
            decoder.channel.ask(question, *descriptors)
            answer = self._await(decoder, limit_s, raise_if_stopped)
            is_well = _can_go_on(answer)
        except (EOFError, OSError):
            self._raise_closed()
            raise decoder.autopsy() from None
        except ValueError:  # a message that no decoder sends
            raise errors.JobError("Decoding this recording gave nonsense.", _CONVERT) from None
        finally:
            self._put_back(decoder, is_well=is_well)
        if isinstance(answer, Broken):
            raise DecoderError(answer.traceback)
        if isinstance(answer, Refused):
            raise _ERRORS.get(answer.error, errors.JobError)(answer.what, answer.remedy)
        return answer

    def _take(self, raise_if_stopped: Callable[[], None]) -> _Decoder:
        """Return an idle decoder that is alive, else a new one."""
        with self._changed:
            self._raise_closed()
            while self._idle:
                decoder = self._idle.pop()
                if decoder.is_alive():
                    self._busy.add(decoder)
                    return decoder
                decoder.end()
            decoder = _Decoder()
            self._busy.add(decoder)
        is_started = False
        try:
            answer = self._await(decoder, lambda: _START_LIMIT_S, raise_if_stopped)
            if is_started := isinstance(answer, Ready):
                self._report_missing(answer.missing)
        except (EOFError, OSError, ValueError):
            self._raise_closed()
        finally:
            if not is_started:
                self._put_back(decoder, is_well=False)
        if not is_started:
            raise errors.TransientError("The decoder could not be started.", "The log of the service says more.")
        return decoder

    def _report_missing(self, protections: tuple[str, ...]) -> None:
        """Log once what the kernel cannot forbid to decoder processes."""
        with self._changed:
            is_new = bool(protections) and not self._is_reported
            self._is_reported |= is_new
        if is_new:
            log.warning("decoder.sandbox_incomplete", missing=list(protections), remedy="Run `scribed check`.")

    def _put_back(self, decoder: _Decoder, *, is_well: bool) -> None:
        with self._changed:
            self._busy.discard(decoder)
            is_kept = is_well and not self._is_closed
            if is_kept:
                self._idle.append(decoder)
        if not is_kept:
            decoder.end()

    def _await(self, decoder: _Decoder, limit_s: Callable[[], float], raise_if_stopped: Callable[[], None]) -> Answer:
        """Wait for the decoder's answer."""
        took_s, last_s = 0.0, self._monotonic()
        while (answer := decoder.channel.poll(_LOOK_S)) is None:
            raise_if_stopped()
            now_s = self._monotonic()
            took_s, last_s = took_s + min(now_s - last_s, _MAX_LOOK_S), now_s
            if took_s > limit_s():
                if decoder.waits_for_disk():
                    raise errors.TransientError(
                        "The recording cannot be read: its disk or share does not answer.", "See whether it is there."
                    )
                log.warning("decoder.hung", took_s=round(took_s))
                raise errors.JobError(
                    f"Decoding this recording came to no end within {took_s / 60:.0f} minutes.", _CONVERT
                )
        return answer


class _Decoder:
    """One decoder process, seen from the daemon.

    Attributes:
        channel: to it.
    """

    def __init__(self) -> None:
        end, its_end = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self.channel = Channel(end)
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        command = [sys.executable, "-P", "-m", "daemon.frontend.worker_process", str(its_end.fileno()), str(lifeline)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._last_words,
                env=_environment(),
                pass_fds=(its_end.fileno(), lifeline),
                start_new_session=True,  # Ctrl-C in a terminal is for the daemon, which ends its decoders
            )
        except OSError:
            self._close()
            raise
        finally:
            its_end.close()
            os.close(lifeline)
        log.debug("decoder.started", pid=self._process.pid)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def waits_for_disk(self) -> bool:
        """Return whether it is stuck within the kernel, as on a share that went away."""
        with suppress(OSError), open(f"/proc/{self._process.pid}/stat", "rb") as file:  # noqa: PTH123 (no path object needed)
            return file.read().rpartition(b")")[2].split()[0] == b"D"
        return False

    def autopsy(self) -> errors.ScribedError:
        """Return the reason why it is gone, in plain words."""
        try:
            code = self._process.wait(_DEATH_S)
        except subprocess.TimeoutExpired:
            code = 0  # it closed its socket and lives on
        self._last_words.seek(max(0, self._last_words.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        last_words = self._last_words.read().decode("utf-8", "replace")
        log.warning("decoder.died", pid=self._process.pid, exit_code=code, last_words=last_words)
        if -code in _NOBODYS_FAULT:
            return errors.TransientError(
                f"The decoder was killed from outside ({signal.Signals(-code).name}).",
                "Is there enough memory? The recording is tried again.",
            )
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return errors.JobError(f"Decoding this recording crashed the decoder ({name}).", _CONVERT)

    def kill(self) -> None:
        """Kill it, in the middle of whatever it does."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, if it still runs, and close what leads to it."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck within the kernel: it dies when it comes back
            self._process.wait(_DEATH_S)
        self._close()

    def _close(self) -> None:
        self.channel.close()
        os.close(self._lifeline)
        self._last_words.close()


def _can_go_on(answer: Answer) -> bool:
    """Return whether the process that gave this answer can be used again."""
    if isinstance(answer, Refused):
        # One that ran out of memory may be in any state; one without the VAD's weights cannot load them any more.
        return answer.error in _ERRORS and answer.error != errors.EngineUnavailableError.__name__
    return not isinstance(answer, Broken)


def _environment() -> dict[str, str]:
    """Return the daemon's environment without what is for the daemon alone.

    One thread for linear algebra, which decoding does not use: a pool of threads takes address
    space on each core.
    """
    own = {name: value for name, value in os.environ.items() if name not in {"NOTIFY_SOCKET", "WATCHDOG_PID"}}
    return own | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _sound_s(descriptor: int) -> float:
    """Return how much sound a file has so far, in seconds."""
    return os.fstat(descriptor).st_size / (_SAMPLE_BYTES * SAMPLE_RATE_HZ)


def _is_sound(done: Done, descriptor: int) -> bool:
    """Return whether an answer fits the sound that came with it."""
    edges = [edge for span in done.speech for edge in (span.start, span.stop)]
    is_in_order = edges == sorted(edges) and (not edges or (edges[0] >= 0 and edges[-1] <= done.n_samples))
    return is_in_order and os.fstat(descriptor).st_size == _SAMPLE_BYTES * done.n_samples
