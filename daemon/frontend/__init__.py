"""The audio front end: a recording becomes clean audio and spans of speech, in processes that may crash.

Codecs read files from strangers. They run in audio processes of their own, which have no model, no GPU and no
right to open anything (`daemon.host.sandbox`). One that crashes, hangs or runs out of memory is ended, and its
recording moves to failed with the reason. Audio comes back through an unlinked file, everything else as messages.
"""

from daemon.frontend.pool import DecoderError, Encoding, FrontEnd
from daemon.frontend.prepared import AudioStream, Prepared

__all__ = ["AudioStream", "DecoderError", "Encoding", "FrontEnd", "Prepared"]
