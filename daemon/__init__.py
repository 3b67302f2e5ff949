"""scribed: a local daemon which turns recordings dropped into a folder into transcripts in another."""

import os

__version__ = "0.1.0"

# Nothing leaves the machine. These have to stand before the libraries load.
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
