"""The audio process: `python -m daemon.frontend.worker_process SOCKET LIFELINE`, started by the pool.

Before it opens the first recording it gives up the right to open anything else: codecs read hostile files, and one
that was taken over finds no path, no network and no other process (`daemon.host.sandbox`). So whatever libraries
load on first use has to be loaded before.
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
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile

from daemon import errors
from daemon.config import Preprocess
from daemon.decode import SAMPLE_RATE_HZ, AudioFiles, MixedWaveform, RecordingFile, Waveform, readers
from daemon.decode.cleaning import is_recording
from daemon.decode.encoding import ENCODED_FORMATS, encode
from daemon.decode.room import measure_room
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
    StreamReady,
    process_end,
)
from daemon.frontend.preparing import find_streams
from daemon.host import files, sandbox
from daemon.host.privileges import leave_no_core
from daemon.segment.silero import load_silero

if TYPE_CHECKING:
    from daemon.frontend.messages import ProcessEnd, Request, Response

# On top of what the process uses after loading. A recording of ten hours needs a tenth of it, for the
# index of its packets.
_MEMORY_BYTES: Final = 1 << 29
_WARM_UP_RATE_HZ: Final = 8000
_TOLD_SAMPLES: Final = 100 * SAMPLE_RATE_HZ  # worth ten seconds more in which to respond
_F_SETSIG: Final = 10  # fcntl.h; the module fcntl does not have it
_MOST_DISPENSABLE: Final = "1000"

_OUT_OF_MEMORY: Final = "Decoding this recording exceeded the memory limit."
_OUT_OF_MEMORY_REMEDY: Final = (
    "It may be damaged: copy it again from the original, or convert it with another program, for instance to FLAC."
)


def main() -> None:
    """Serve requests until the daemon closes its end or an unexpected error occurs."""
    end, lifeline = (int(word) for word in sys.argv[1:])
    _die_with(lifeline)
    channel = process_end(socket.socket(fileno=end))
    _load_ahead()
    _limit()
    missing = sandbox.give_up_rights()
    channel.send(Ready(tuple(found.what for found in missing)))
    with suppress(EOFError, BrokenPipeError):
        while True:
            response = _respond(channel, *channel.receive())
            channel.send(response)
            if isinstance(response, Bug):
                return


def _die_with(lifeline: int) -> None:
    """Have the kernel kill this process when the daemon is gone, even in the middle of a codec.

    The daemon holds the other end of this pipe, and writes nothing. PR_SET_PDEATHSIG would not do:
    it fires when the thread that started this process ends, and that is one of many.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)


def _load_ahead() -> None:
    """Load what Python and the libraries load on first use: clean half a second of noise and look for speech in it."""
    with suppress(errors.EngineUnavailableError):  # a request that needs this model gets the error
        load_silero()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, _WARM_UP_RATE_HZ // 2).astype(np.float32)
    request = Prepare(Preprocess(normalize="loudness", leveling="on"), "energy", Path())
    with _memory_file() as file:
        soundfile.write(file, noise, _WARM_UP_RATE_HZ, format="FLAC")
        with RecordingFile(os.dup(file.fileno())) as source, _memory_file() as audio:
            with closing(readers.open_reader(source, is_damaged=True)) as reader:  # FFmpeg, not libsndfile
                deque(reader.blocks((1,), lambda: None), maxlen=0)
            (stream, *_), _ = find_streams(source, AudioFiles(Path(), [audio]), request)
            for form in ENCODED_FORMATS:
                with _memory_file() as target:
                    encode(stream.waveform, target, form, {})
    try:
        raise ValueError  # noqa: TRY301  # formatting a traceback loads what that needs
    except ValueError:
        traceback.format_exc()


def _memory_file() -> io.FileIO:
    return io.FileIO(os.memfd_create("warm-up"), "r+b")


def _limit() -> None:
    """Bound the memory, leave no core file, and be the first to go when the machine runs out of memory."""
    leave_no_core()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_MOST_DISPENSABLE)
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = n_pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _respond(channel: ProcessEnd, request: Request, descriptors: list[int]) -> Response:
    try:
        if isinstance(request, Encode):
            return _encode(request, descriptors)
        with RecordingFile(descriptors[0]) as source:
            if not isinstance(request, Prepare):
                return _look(source, request)
            with ExitStack() as stack:
                files = [stack.enter_context(io.FileIO(descriptor, "r+b")) for descriptor in descriptors[1:]]
                return _prepare(source, files, request, channel)
    except errors.ScribedError as error:
        return AudioFailed(type(error).__name__, error.what, error.remedy)
    except MemoryError:
        return AudioFailed(MemoryError.__name__, _OUT_OF_MEMORY, _OUT_OF_MEMORY_REMEDY)
    except Exception:  # noqa: BLE001  # the daemon raises it, as if it had happened there
        return Bug(traceback.format_exc())


def _look(source: RecordingFile, request: Probe | MeasureRoom) -> Probed | RoomMeasured:
    """Say what the headers of a recording show."""
    if isinstance(request, Probe):
        return Probed(is_recording(source))
    return RoomMeasured(measure_room(source, request.tracks, request.channels, request.limit_s))


def _prepare(source: RecordingFile, files: list[io.FileIO], request: Prepare, channel: ProcessEnd) -> AudioReady:
    """Decode a recording into the files, and find the speech in it; say now and then how far it is."""
    audio = AudioFiles(request.cache, files)
    n_told = 0

    def tell() -> None:
        nonlocal n_told
        if audio.n_recorded - n_told >= _TOLD_SAMPLES:
            n_told = audio.n_recorded
            channel.send(Decoding(n_told / SAMPLE_RATE_HZ))

    streams, receipt = find_streams(source, audio, request, tell)
    ready = (
        StreamReady(
            files.index(stream.waveform.file),
            stream.waveform.n_samples,
            stream.waveform.gain,
            stream.waveform.pieces,
            stream.speech,
            stream.track,
            stream.channel,
            stream.echoes,
        )
        for stream in streams
    )
    return AudioReady(tuple(ready), receipt)


def _encode(request: Encode, descriptors: list[int]) -> Encoded:
    """Write cleaned audio in a format that browsers play."""
    with ExitStack() as stack:
        target, *sources = (stack.enter_context(io.FileIO(descriptor, "r+b")) for descriptor in descriptors)
        parts = [Waveform(file, part.n_samples, part.gain) for file, part in zip(sources, request.parts, strict=True)]
        waveform = parts[0] if len(parts) == 1 else MixedWaveform(parts)
        tags = {"title": request.title, "date": request.date}
        with files.explained("The listening copy could not be stored", request.cache):
            encode(waveform, target, request.form, tags, (request.start, request.stop))
    return Encoded()


if __name__ == "__main__":
    main()
