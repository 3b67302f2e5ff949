"""Any file to 16 kHz mono, cleaned the way sox does it, with a receipt of what was found and done.

`daemon.decode.cleaning` does the work. It loads the codecs, so only audio processes import it.
"""

from daemon.decode.source import NotARecordingError, RecordingFile
from daemon.decode.waveform import SAMPLE_RATE_HZ, Waveform, WaveformWriter, open_unlinked

__all__ = ["SAMPLE_RATE_HZ", "NotARecordingError", "RecordingFile", "Waveform", "WaveformWriter", "open_unlinked"]
