"""scribed: a local daemon which turns recordings dropped into a folder into transcripts in another."""

import os

__version__ = "0.1.0"

# Nothing leaves the machine. These have to stand before the libraries load: onnxruntime reports each process
# and session to its maker from its import on (https://github.com/microsoft/onnxruntime/pull/27379).
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
