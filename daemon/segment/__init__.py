"""A waveform to chunks: where there is speech, and the chunks of it that the model hears.

`daemon.segment.vad` detects the speech; only audio processes import it.
"""

from daemon.segment.chunking import Chunk, Span, cut, split
from daemon.segment.echo_gain import lower_echoes

__all__ = ["Chunk", "Span", "cut", "lower_echoes", "split"]
