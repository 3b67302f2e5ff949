"""Audio processes as forks, like the runs themselves: starting one takes longer than the rest of a run.

A server that has imported their modules forks one for each connection. Instead of its interpreter, the daemon
starts a launcher, which passes its descriptors on and exits with its audio process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daemon.frontend import worker_process as decoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The last words of its command line are two descriptors; 2 is where a decoder's last words go.
_LAUNCHER = """\
#!{python} -IS
import os, socket, sys
descriptors = [int(word) for word in sys.argv[-2:]]
end = socket.socket(socket.AF_UNIX)
end.connect({address!r})
socket.send_fds(end, [b"."], [*descriptors, 2])
for descriptor in descriptors:
    os.close(descriptor)
end.recv(1)
"""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@contextmanager
def forked_decoders(folder: Path) -> Iterator[None]:
    """Have the runs of this process and of its forks start their decoders so; to be entered after all imports."""
    address, launcher = folder / "decoders", folder / "launcher"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    launcher.write_text(_LAUNCHER.format(python=sys.executable, address=str(address)))
    launcher.chmod(0o700)
    server = os.fork()
    if server == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _serve(listener)
    listener.close()
    interpreter, sys.executable = sys.executable, str(launcher)
    try:
        yield
    finally:
        sys.executable = interpreter
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def _serve(listener: socket.socket) -> None:
    """Fork a decoder for every connection."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they are not waited for
        while True:
            end, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _be_decoder(end)
            end.close()
    except BaseException:  # noqa: BLE001  # it must not run on as a second copy of its parent
        traceback.print_exc()
    finally:
        os._exit(1)


def _be_decoder(end: socket.socket) -> None:
    """Be one; `end` is closed by the end of this process, and the launcher ends with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    _, descriptors, _, _ = socket.recv_fds(end, 1, 3)
    os.dup2(descriptors.pop(), sys.stderr.fileno())
    sys.argv[1:] = map(str, descriptors)
    decoder.main()
    os._exit(0)
