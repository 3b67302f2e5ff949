"""Any file to 16 kHz mono, cleaned the way sox does it, with a receipt of what was seen and done.

`daemon.decode.cleaning` does it; it loads the codecs, and so only decoder processes import it.
"""

from daemon.decode.source import NotARecordingError, RecordingFile
from daemon.decode.waveform import SAMPLE_RATE_HZ, Waveform, WaveformWriter, open_unlinked

__all__ = ["SAMPLE_RATE_HZ", "NotARecordingError", "RecordingFile", "Waveform", "WaveformWriter", "open_unlinked"]
