"""scribed: a local daemon that turns recordings dropped into one folder into transcripts in another."""

import os

__title__ = "scribed"  # tells us from other packages that are named `daemon`
__version__ = "0.1.0"

# Nothing leaves the machine. Set before the libraries load.
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
