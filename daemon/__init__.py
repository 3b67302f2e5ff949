"""scribed: a local daemon which turns recordings dropped into a folder into transcripts in another."""

import os

__version__ = "0.1.0"

# Nothing leaves the machine. These have to stand before the libraries load: onnxruntime looks for its own then, and
# keeps a database of its use, to be sent to Microsoft, without it (onnxruntime/core/platform/posix/telemetry_1ds.cc).
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
