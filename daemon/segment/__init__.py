"""A waveform to chunks: where there is speech, and the pieces of it that the model hears."""

from daemon.segment.cutting import Chunk, Span, cut, split
from daemon.segment.speech import find_speech

__all__ = ["Chunk", "Span", "cut", "find_speech", "split"]
