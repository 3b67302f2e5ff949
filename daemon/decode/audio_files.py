"""The files for the streams of one recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from daemon.decode.mixing import Mix, MixPart
from daemon.decode.waveform import MAX_STREAMS, WaveformWriter, open_unlinked

if TYPE_CHECKING:
    import io
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from daemon.decode.waveform import Waveform


class AudioFiles:
    """The unlinked files for the streams of one recording.

    Args:
        cache: folder for decoded audio.
        files: open unlinked files to write to; None for new ones, of any number.
    """

    def __init__(self, cache: Path, files: Sequence[io.FileIO] | None = None) -> None:
        self._cache = cache
        self._given = None if files is None else list(files)
        self._busy: list[io.FileIO] = []
        self._writers: list[WaveformWriter | MixPart] = []

    @property
    def n_recorded(self) -> int:
        """How many samples were written so far, to all files, pauses of the recorder left out."""
        return sum(writer.n_recorded for writer in self._writers)

    @property
    def n_free(self) -> int:
        """How many more streams there is room for."""
        return MAX_STREAMS - len(self._busy) if self._given is None else len(self._given)

    def make_writer(self) -> WaveformWriter:
        """Return a writer for one more stream."""
        writer = WaveformWriter(self._cache, self._take())
        self._writers.append(writer)
        return writer

    def make_mix(self, n_parts: int) -> Mix:
        """Return what adds up several tracks to one stream."""
        mix = Mix(self._cache, self._take(), n_parts)
        self._writers += mix.parts
        return mix

    def _take(self) -> io.FileIO:
        file = open_unlinked(self._cache) if self._given is None else self._given.pop(0)
        self._busy.append(file)
        return file

    def release(self, *waveforms: Waveform) -> None:
        """Discard the audio of some streams."""
        for waveform in waveforms:
            self._discard(waveform.file)

    def release_all(self) -> None:
        """Discard the audio of all streams."""
        for file in self._busy[:]:
            self._discard(file)

    def _discard(self, file: io.FileIO) -> None:
        self._busy.remove(file)
        if self._given is None:
            file.close()
        else:
            file.seek(0)
            file.truncate()
            self._given.insert(0, file)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all files after an error."""
        if error is not None:
            for file in (*self._busy, *(self._given or ())):
                file.close()
