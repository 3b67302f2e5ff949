"""The decoder process: `python -m daemon.frontend.worker_process SOCKET LIFELINE`, started by the pool.

Before it looks at the first recording it gives up the right to open anything: codecs read hostile files, and one
that was taken over finds no path, no network and no other process (`daemon.host.sandbox`). So whatever is loaded on
first use has to be loaded ahead.
"""

from __future__ import annotations

import fcntl
import io
import os
import resource
import signal
import socket
import sys
import traceback
from collections import deque
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from daemon import errors
from daemon.config import Preprocess
from daemon.decode import RecordingFile, WaveformWriter, readers
from daemon.decode.cleaning import decode, is_recording
from daemon.frontend.messages import Broken, Channel, Done, Look, Looked, Order, Ready, Refused
from daemon.host import sandbox
from daemon.host.privileges import leave_no_core
from daemon.segment.silero import load_weights
from daemon.segment.vad import detect_speech

if TYPE_CHECKING:
    from daemon.frontend.messages import Answer, Question

# Beyond what is taken after the imports. A recording of ten hours needs a tenth of it, for the
# index of its packets.
_MEMORY_BYTES = 1 << 29
_WARM_UP_RATE_HZ = 8000
_F_SETSIG = 10  # fcntl.h; the module fcntl does not have it
_MOST_DISPENSABLE = "1000"

_TOO_BIG = "Decoding this recording takes more memory than a recording can need."
_TOO_BIG_REMEDY = "Convert it with another program, for instance to FLAC, and try again."


def main() -> None:
    """Answer questions until the daemon closes its end, or until one was too much."""
    end, lifeline = (int(word) for word in sys.argv[1:])
    _die_with(lifeline)
    channel = Channel(socket.socket(fileno=end))
    _load_ahead()
    _limit()
    missing = sandbox.give_up_rights()
    channel.answer(Ready(tuple(found.what for found in missing)))
    with suppress(EOFError, BrokenPipeError):
        while True:
            answer = _answer(*channel.next_question())
            channel.answer(answer)
            if isinstance(answer, Broken):
                return


def _die_with(lifeline: int) -> None:
    """Have the kernel kill this process when the daemon is gone, even in the middle of a codec.

    The daemon holds the other end of this pipe, and writes nothing. PR_SET_PDEATHSIG would not do:
    it strikes when the thread that started this process ends, and that is one of many.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)


def _load_ahead() -> None:
    """Load what Python and the libraries load on first use: clean half a second of noise and look for speech in it."""
    with suppress(errors.EngineUnavailableError):  # whoever asks for that model gets the error
        load_weights()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, _WARM_UP_RATE_HZ // 2).astype(np.float32)
    settings = Preprocess(normalize="loudness")
    with _memory_file() as file:
        soundfile.write(file, noise, _WARM_UP_RATE_HZ, format="FLAC")
        with RecordingFile(os.dup(file.fileno())) as source, _memory_file() as audio:
            with closing(readers.open_reader(source, is_damaged=True)) as reader:  # FFmpeg, not libsndfile
                deque(reader.blocks(lambda: None), maxlen=0)
            with WaveformWriter(Path(), audio) as writer:
                waveform, _ = decode(source, writer, settings)
            detect_speech(waveform, "energy", lambda: None)
    try:
        raise ValueError  # noqa: TRY301 (formatting a traceback loads what that needs)
    except ValueError:
        traceback.format_exc()


def _memory_file() -> io.FileIO:
    return io.FileIO(os.memfd_create("warm-up"), "r+b")


def _limit() -> None:
    """Bound the memory, leave no core file, and be the first to go where the machine has no memory left."""
    leave_no_core()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_MOST_DISPENSABLE)
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = n_pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(question: Question, descriptors: list[int]) -> Answer:
    try:
        with RecordingFile(descriptors[0]) as source:
            if isinstance(question, Look):
                return Looked(is_recording(source))
            with io.FileIO(descriptors[1], "r+b") as file:
                return _prepare(source, file, question)
    except errors.ScribedError as error:
        return Refused(type(error).__name__, error.what, error.remedy)
    except MemoryError:
        return Refused(MemoryError.__name__, _TOO_BIG, _TOO_BIG_REMEDY)
    except Exception:  # noqa: BLE001 (the worker of the daemon gets it, as if it had happened there)
        return Broken(traceback.format_exc())


def _prepare(source: RecordingFile, file: io.FileIO, order: Order) -> Done:
    """Decode a recording into the file, and find the speech in it."""
    with WaveformWriter(order.cache, file) as writer:
        waveform, receipt = decode(source, writer, order.settings)
    with waveform:
        speech = detect_speech(waveform, order.vad, lambda: None)
        return Done(waveform.n_samples, waveform.gain, receipt, speech)


if __name__ == "__main__":
    main()
