"""The audio front end: a recording to sound and speech, in processes that may die of it.

Codecs read what strangers made. They run in decoder processes of their own, which have no model
and no GPU; one that crashes, hangs or takes memory without end is ended, and its recording is set
aside with the reason. Sound comes back through an unlinked file, everything else as small messages.
"""

from daemon.frontend.pool import DecoderError, FrontEnd, Prepared

__all__ = ["DecoderError", "FrontEnd", "Prepared"]
