"""One audio process, as the daemon sees it: start it, watch it, end it, and explain its death."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Final

import structlog

from daemon import errors
from daemon.frontend.messages import daemon_end

CONVERT: Final = "The recording may be damaged: convert it with another program, for instance to FLAC, and try again."
"""What to do with a recording that a codec cannot handle."""

_DEATH_S: Final = 2.0
_LAST_WORDS_BYTES: Final = 2000
# Sent by the kernel when memory runs out, or by a person: the recording is not to blame.
_SENT_FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

log = structlog.get_logger()


class AudioProcess:
    """A process that decodes recordings, one at a time.

    Attributes:
        channel: the connection to it.
    """

    def __init__(self) -> None:
        end, its_end = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self.channel = daemon_end(end)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        command = [sys.executable, "-P", "-m", "daemon.frontend.worker_process", str(its_end.fileno()), str(lifeline)]
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=_environment(),
                pass_fds=(its_end.fileno(), lifeline),
                start_new_session=True,  # Ctrl-C in a terminal goes to the daemon only, which ends its processes
            )
        except OSError:
            self._close()
            raise
        finally:
            its_end.close()
            os.close(lifeline)
        log.debug("decoder.started", pid=self._process.pid)

    def is_alive(self) -> bool:
        """Return whether it still runs."""
        return self._process.poll() is None

    def waits_for_disk(self) -> bool:
        """Return whether it hangs in the kernel, as on a network share that went away."""
        with suppress(OSError), open(f"/proc/{self._process.pid}/stat", "rb") as file:  # noqa: PTH123  # no path object needed
            return file.read().rpartition(b")")[2].split()[0] == b"D"
        return False

    def explain_death(self) -> errors.ScribedError:
        """Return the reason why it died."""
        try:
            code = self._process.wait(_DEATH_S)
        except subprocess.TimeoutExpired:
            code = 0  # it closed its socket but still runs
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        last_words = self._stderr.read().decode("utf-8", "replace")
        log.warning("decoder.died", pid=self._process.pid, exit_code=code, last_words=last_words)
        if -code in _SENT_FROM_OUTSIDE:
            killer = "possibly by the OOM killer" if -code == signal.SIGKILL else "from outside"
            return errors.TransientError(
                f"The decoder process was killed ({signal.Signals(-code).name}), {killer}.",
                "Check the free memory. The recording will be tried again.",
            )
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return errors.JobError(f"Decoding this recording crashed the decoder ({name}).", CONVERT)

    def kill(self) -> None:
        """Kill it, whatever it is doing."""
        self._process.kill()

    def end(self) -> None:
        """Kill it if it still runs, and close the connection."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it dies when the system call returns
            self._process.wait(_DEATH_S)
        self._close()

    def _close(self) -> None:
        self.channel.close()
        os.close(self._lifeline)
        self._stderr.close()


def _environment() -> dict[str, str]:
    """Return the daemon's environment without the variables meant for the daemon alone.

    One thread for linear algebra, which decoding does not use: a pool of threads reserves address
    space for each core.
    """
    own = {name: value for name, value in os.environ.items() if name not in {"NOTIFY_SOCKET", "WATCHDOG_PID"}}
    return own | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
