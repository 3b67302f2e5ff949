"""A real systemd for tests, booted in its own namespaces over a throw-away copy of this machine's root.

It needs root, overlayfs and cgroup2, and about a second. systemd-nspawn would be simpler, but it ignores
IPAddressDeny, so it could not show whether the unit has a network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
REPOSITORY = Path(__file__).parents[2]
PYTHON = Path("/usr/bin") / f"python{sys.version_info.major}.{sys.version_info.minor}"
# The packages of the environment that runs these tests, so that nothing is downloaded again.
_PACKAGES = Path(sysconfig.get_paths()["purelib"])
_SITE = f"/opt/scribed/venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--ipc", "--uts", "--net")
_PROGRAMS = ("unshare", "nsenter", "setpriv", "useradd", "journalctl", "strace", "make")
_LOOK_S = 0.1
_WAIT_S = 60.0


def missing() -> str:
    """Return why no systemd can be booted here, or ""."""
    if os.geteuid() != 0:
        return "root is required"
    has_venv = subprocess.run(["sh", "-c", f"{PYTHON} -c 'import ensurepip'"], capture_output=True, check=False)
    programs = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    lacking = [
        what
        for is_there, what in (
            (SYSTEMD.exists(), "systemd is not installed"),
            (not programs, f"not installed: {', '.join(programs)}"),
            (_cgroup_root() is not None, "there is no cgroup2"),
            (has_venv.returncode == 0, f"{PYTHON}, which services can see, or python3-venv is not installed"),
            (
                any(_PACKAGES.glob("setuptools-*")),
                "setuptools is not installed, and the box has no network to fetch it",
            ),
        )
        if not is_there
    ]
    return "; ".join(lacking) or _try_namespaces()


def _try_namespaces() -> str:
    layers = "lowerdir=/,upperdir=$1/up,workdir=$1/work"
    script = f'mount -t tmpfs t "$1" && mkdir "$1/up" "$1/work" "$1/root" && mount -t overlay o -o "{layers}" "$1/root"'
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", *_NAMESPACES, "sh", "-c", script, "sh", folder]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"namespaces or overlayfs are not allowed: {tried.stderr.strip()}" if tried.returncode else ""


def _cgroup_root() -> Path | None:
    lines = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next((Path(words[1]) for words in lines if words[2] == "cgroup2"), None)


@dataclass(slots=True)
class Box:
    """One booted systemd; `close` ends it and leaves nothing behind."""

    work: Path
    cgroup: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def boot(cls) -> Box:
        """Boot and wait until systemd has come up."""
        root = _cgroup_root()
        assert root is not None
        work = Path(tempfile.mkdtemp(prefix="scribed-box-", dir="/run"))
        cgroup = root / work.name
        cgroup.mkdir()
        script = 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"'
        inner = ["sh", str(Path(__file__).with_name("boot.sh")), str(work), str(REPOSITORY), str(_PACKAGES)]
        # It dies with this process, however that ends.
        ours = ["setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES, "--propagation", "private"]
        outer = ["sh", "-c", script, "sh", str(cgroup), *ours]
        with (work.parent / f"{work.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*outer, *inner], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        box = cls(work, cgroup, process)
        try:
            box._wait_until_up()
            # As in tests/integration: more than one thread does not help the tiny model.
            box.do("systemctl", "set-environment", "OMP_NUM_THREADS=1")
        except BaseException:
            box.close()
            raise
        return box

    def _wait_until_up(self) -> None:
        never = threading.Event()
        for _ in range(round(_WAIT_S / _LOOK_S)):
            if self.process.poll() is not None:
                break
            if self._init() and self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"):
                return
            never.wait(_LOOK_S)
        log = (self.work.parent / f"{self.work.name}.log").read_text()
        raise AssertionError(f"systemd did not come up: {log}")

    def _init(self) -> str:
        """Return the pid, outside, of systemd in the box; "" before it has started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        is_up = bool(children) and Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd"
        return children[0] if is_up else ""

    def command(self, *words: str, user: str = "") -> list[str]:
        """Return the command line that runs a command in the box, as root or another user."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        environment = ["env", "-i", "container=scribed-test", f"PATH={_PATH}", "HOME=/", "LANG=C.UTF-8"]
        return ["nsenter", "--target", self._init(), "--all", *environment, *become, *words]

    def run(self, *words: str, user: str = "", timeout_s: float = _WAIT_S) -> subprocess.CompletedProcess[str]:
        """Run a command in the box; it may fail."""
        return subprocess.run(
            self.command(*words, user=user), capture_output=True, text=True, check=False, timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def do(self, *words: str, user: str = "", timeout_s: float = _WAIT_S) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(*words, user=user, timeout_s=timeout_s)
        assert done.returncode == 0, f"{words} gave {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def path(self, path: str) -> Path:
        """Return the path, outside, of a file in the box."""
        return Path(f"/proc/{self._init()}/root{path}")

    def write(self, path: str, text: str) -> None:
        """Write a file in the box, as root."""
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)

    def install(self, destdir: str = "") -> str:
        """Run `make install` as an administrator or a packager does, with the packages of this environment."""
        # As if an earlier version had been installed: pip finds all packages in its environment.
        site, layers = f"{destdir}{_SITE}", f"/run/packages{destdir}"
        if self.run("mountpoint", "-q", site).returncode:
            self.do(str(PYTHON), "-m", "venv", "--without-pip", f"{destdir}/opt/scribed/venv")
            self.do("mkdir", "-p", f"{layers}/changes", f"{layers}/scratch")
            options = f"lowerdir=/mnt/scribed/packages,upperdir={layers}/changes,workdir={layers}/scratch"
            self.do("mount", "-t", "overlay", "overlay", "-o", options, site)
        # setuptools writes into the source folder.
        self.do("rm", "-rf", "/run/source")
        self.do("cp", "-r", "/mnt/scribed/repository", "/run/source")
        offline = ("PIP_NO_INDEX=1", "PIP_NO_BUILD_ISOLATION=0", "PIP_ROOT_USER_ACTION=ignore", f"PYTHON={PYTHON}")
        # Whatever device is found, use the installed torch.
        torch = "TORCH_INDEX=file:///nowhere"
        words = (f"DESTDIR={destdir}", "LIBDIR=/usr/lib") if destdir else ()
        return self.do("env", *offline, torch, "make", "-C", "/run/source", "install", *words, timeout_s=300)

    def uninstall(self) -> str:
        """Run `make uninstall`."""
        self.do("systemctl", "stop", "scribed.service")
        self.do("umount", _SITE)
        return self.do("make", "-C", "/run/source", "uninstall")

    def close(self) -> None:
        """End everything in the box and remove its folders."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)  # unshare ends its child, and the child all others
        self.process.wait(_WAIT_S)
        never = threading.Event()
        for folder in sorted((*self.cgroup.rglob("*/"), self.cgroup), reverse=True):
            for _ in range(50):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                never.wait(_LOOK_S)  # its processes have not ended yet
        self.work.rmdir()
        (self.work.parent / f"{self.work.name}.log").unlink(missing_ok=True)
