"""From one recording to its transcript; `line` has the stages in their order."""

from daemon.pipeline.line import finish, prepare, transcribe, transcribe_prepared
from daemon.pipeline.listening import make_clips, make_listening_copy
from daemon.pipeline.work import Forgetful, Pace, PreparedRecording, Progress, Recording, RunControl

__all__ = [
    "Forgetful",
    "Pace",
    "PreparedRecording",
    "Progress",
    "Recording",
    "RunControl",
    "finish",
    "make_clips",
    "make_listening_copy",
    "prepare",
    "transcribe",
    "transcribe_prepared",
]
