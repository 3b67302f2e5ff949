"""A waveform to chunks: where there is speech, and the pieces of it that the model hears.

`daemon.segment.vad` finds the speech; only decoder processes import it.
"""

from daemon.segment.chunking import Chunk, Span, cut, split

__all__ = ["Chunk", "Span", "cut", "split"]
