"""The installed service as administrators and users see it: systemctl, journalctl, its folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from tests.integration import instance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.box import Box

# A start loads libraries and a model, several times in some tests, on busy machines.
TIMEOUT_S = 900
_WAIT_S = 400.0
FOLDERS = ("inbox", "outbox", "processed", "failed")
# Short times, so that tests do not wait.
SETTINGS: dict[str, Any] = {
    "watch": {"settle_s": 0.5, "scan_s": 0.3},
    "model": {"path": "demo", "slots": 1},
    "retry": {"backoff_s": 0},
}


def wait_until(is_true: Callable[[], object], what: str) -> None:
    """Poll until something is true; fail the test if it never is."""
    instance.wait_until(is_true, what, _WAIT_S)


def words_of(text: str) -> str:
    """Return the first words of a transcript: no other recording has them in a row."""
    words = text.split()
    assert len(words) >= 6, text
    return " ".join(words[:6])


@dataclass(slots=True)
class Unit:
    """One service in the box: scribed.service, or an instance of the template."""

    box: Box
    instance: str = ""

    @property
    def name(self) -> str:
        return f"scribed@{self.instance}.service" if self.instance else "scribed.service"

    @property
    def suffix(self) -> str:
        return f"-{self.instance}" if self.instance else ""

    @property
    def config(self) -> str:
        return f"/etc/scribed/{self.instance or 'config'}.yaml"

    def folder(self, name: str) -> str:
        known = {"state": f"/var/lib/scribed{self.suffix}", "cache": f"/var/cache/scribed{self.suffix}"}
        return known.get(name, f"/srv/scribed{self.suffix}/{name}")

    def path(self, folder: str, name: str = "") -> Path:
        """Return the path, outside the box, of a file in a folder of the service."""
        return self.box.path(f"{self.folder(folder)}/{name}".rstrip("/"))

    # As an administrator

    def configure(self, **sections: dict[str, Any]) -> None:
        """Write the configuration."""
        settings = {name: dict(keys) for name, keys in SETTINGS.items()}
        settings["folders"] = {name: self.folder(name) for name in (*FOLDERS, "state", "cache")}
        for section, keys in sections.items():
            settings[section] = {**settings.get(section, {}), **keys}
        self.box.write(self.config, yaml.safe_dump(settings))

    def drop_in(self, text: str) -> None:
        """Add a drop-in, as `systemctl edit` does."""
        self.box.write(f"/etc/systemd/system/{self.name}.d/test.conf", text)
        self.box.do("systemctl", "daemon-reload")

    def reset(self) -> None:
        """Reset it to the state after `make install`, with the configuration of the tests."""
        self.stop()
        self.box.do("rm", "-rf", f"/etc/systemd/system/{self.name}.d")
        self.box.do("systemctl", "daemon-reload")
        places = " ".join(self.folder(name) for name in (*FOLDERS, "cache", "state"))
        self.box.do("sh", "-c", f"find {places} -mindepth 1 ! -path '*/models' -delete")
        self.configure()

    def is_pristine(self) -> bool:
        """Return whether it runs with the configuration and the unit of `reset`."""
        before = self.box.path(self.config).read_text() if self.box.path(self.config).exists() else ""
        has_drop_in = self.box.path(f"/etc/systemd/system/{self.name}.d").exists()
        self.configure()
        is_same = self.box.path(self.config).read_text() == before
        return is_same and not has_drop_in and self.show("ActiveState") == "active"

    def start(self) -> None:
        self.box.do("systemctl", "start", self.name, timeout_s=_WAIT_S)

    def stop(self) -> None:
        self.box.run("systemctl", "stop", self.name)
        self.box.run("systemctl", "reset-failed", self.name)

    def show(self, key: str) -> str:
        """Return a property of the unit."""
        return self.box.do("systemctl", "show", "--property", key, "--value", self.name).strip()

    def is_active(self) -> bool:
        return self.show("ActiveState") == "active"

    def kill(self, signal: str) -> None:
        """Send a signal to the daemon only."""
        self.box.do("kill", f"-{signal}", self.show("MainPID"))

    def entries(self, *words: str) -> list[dict[str, Any]]:
        """Return the journal entries of the unit."""
        self.box.do("journalctl", "--sync")
        output = self.box.do("journalctl", "--output=json", "--unit", self.name, *words)
        return [json.loads(line) for line in output.splitlines()]

    def status(self) -> dict[str, Any]:
        """Return the daemon's last status, {} before the first."""
        try:
            status: dict[str, Any] = json.loads(self.path("state", "status.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return status

    # As people with recordings

    def drop(self, source: Path, name: str, user: str = "dora", mode: str = "0640") -> int:
        """Copy a recording into the inbox as a group member, under a temporary name first; return its inode."""
        shutil.copyfile(source, self.box.path(f"/run/{name}"))
        self.box.do("chmod", "0644", f"/run/{name}")
        target = f"{self.folder('inbox')}/{name}"
        part = f"{target}.part"
        copy = f"cp /run/{name} {part} && chmod {mode} {part} && stat --format=%i {part} && mv {part} {target}"
        return int(self.box.do("sh", "-c", f"umask 027; {copy}", user=user))

    def wait_for(self, name: str) -> dict[str, Any]:
        """Wait until a recording is delivered; return its JSON document."""
        wait_until(lambda: self.path("processed", name).exists(), f"{name} is delivered")
        document: dict[str, Any] = json.loads(self.path("outbox", f"{name.rpartition('.')[0]}.json").read_text())
        return document

    def in_work(self) -> list[str]:
        """Return the names of recordings in progress."""
        return [part["name"] for part in self.status().get("queue", {}).get("running", [])]

    def wait_until_in_work(self, name: str, beyond: float = 0.0) -> float:
        """Wait until more than this fraction of a recording is transcribed; return the fraction."""

        def progress() -> float:
            running = self.status().get("queue", {}).get("running", [])
            return max((part["progress"] for part in running if part["name"] == name), default=0.0)

        wait_until(lambda: progress() > beyond, f"{name} is in progress")
        return progress()
