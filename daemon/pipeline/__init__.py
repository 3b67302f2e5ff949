"""From one recording to its transcript."""

from daemon.pipeline.line import Forgetful, Progress, Recording, RunControl, assemble, transcribe

__all__ = ["Forgetful", "Progress", "Recording", "RunControl", "assemble", "transcribe"]
