"""From one recording to its transcript; `line` has the stages in their order."""

from daemon.pipeline.line import prepare, transcribe, transcribe_prepared
from daemon.pipeline.work import Forgetful, Pace, PreparedRecording, Progress, Recording, RunControl

__all__ = [
    "Forgetful",
    "Pace",
    "PreparedRecording",
    "Progress",
    "Recording",
    "RunControl",
    "prepare",
    "transcribe",
    "transcribe_prepared",
]
