"""As when the daemon loads the engine: functions are compiled by this process, without a pool of others."""

from __future__ import annotations

import os

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
