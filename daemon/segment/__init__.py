"""A waveform to chunks: where there is speech, and the pieces of it that the model hears.

`daemon.segment.speech` finds the speech; only decoder processes import it.
"""

from daemon.segment.cutting import Chunk, Span, cut, split

__all__ = ["Chunk", "Span", "cut", "split"]
