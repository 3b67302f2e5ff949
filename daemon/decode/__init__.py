"""Any file to 16 kHz mono, cleaned the way sox does it, with a receipt of what was found and done.

`daemon.decode.cleaning` does the work. It loads the codecs, so only audio processes import it.
"""

from daemon.decode.audio_files import AudioFiles
from daemon.decode.packing import stored_bytes
from daemon.decode.source import NotARecordingError, RecordingFile
from daemon.decode.waveform import (
    MAX_STREAMS,
    SAMPLE_RATE_HZ,
    MixedWaveform,
    Waveform,
    WaveformWriter,
    open_unlinked,
)

__all__ = [
    "MAX_STREAMS",
    "SAMPLE_RATE_HZ",
    "AudioFiles",
    "MixedWaveform",
    "NotARecordingError",
    "RecordingFile",
    "Waveform",
    "WaveformWriter",
    "open_unlinked",
    "stored_bytes",
]
