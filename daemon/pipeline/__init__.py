"""From one recording to its transcript; `line` has the stages in their order."""

from daemon.pipeline.line import transcribe
from daemon.pipeline.work import Forgetful, Progress, Recording, RunControl

__all__ = ["Forgetful", "Progress", "Recording", "RunControl", "transcribe"]
