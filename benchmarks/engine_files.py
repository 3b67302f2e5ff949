"""Recordings for the engine benchmark, and the pipeline from files to transcripts around one engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import soundfile

from daemon import checkpoint
from daemon.config import Config, Folders, RecordingSettings, SegmentSettings
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.scheduler import ContinuousEngine
from daemon.frontend import FrontEnd
from daemon.pipeline import Forgetful, Recording, RunControl, transcribe

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.contenders import Bench
    from daemon.transcript import Transcript


class Pipeline:
    """The pipeline from files to transcripts, with front end and engine, for several recordings at a time.

    Args:
        bench: has the model.
        n_slots: chunks that are decoded together.
        folder: an empty folder for the folders of the configuration.
    """

    def __init__(self, bench: Bench, n_slots: int, folder: Path) -> None:
        paths = {name: folder / name for name in Folders.model_fields}
        for path in paths.values():
            path.mkdir()
        self._config = Config(folders=Folders(**paths), segment=SegmentSettings())
        self.engine = ContinuousEngine(bench.model, bench.identity, n_slots, DeviceLoop(bench.device))
        self._front_end = FrontEnd(self._config.folders.cache)

    def transcribe(self, path: Path) -> Transcript:
        """Transcribe one recording."""
        recording = Recording(path.stem, path, path.name, RecordingSettings.of(self._config))
        control = RunControl(lambda: None, lambda _: None, Forgetful())
        return transcribe(recording, self._config, self._front_end, self.engine, control)

    def close(self) -> None:
        """Stop front end and engine."""
        self._front_end.close()
        self.engine.close()


def write_meeting(path: Path, audio_s: float) -> None:
    """Write a recording that repeats the sample meeting."""
    meeting, rate_hz = soundfile.read(checkpoint.find_folder("demo").parent / "recordings" / "meeting.flac")
    n_left = round(audio_s * rate_hz)
    with soundfile.SoundFile(path, "w", rate_hz, 1) as file:
        while n_left > 0:
            file.write(meeting[:n_left])
            n_left -= len(meeting)
