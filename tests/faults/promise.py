"""What is promised, as a check: each recording in exactly one place, exactly one whole set of documents."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile
import yaml

from daemon.cli import main as command_line
from daemon.host.files import TEMPORARY_PREFIX
from tests.conftest import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = ("inbox", "outbox", "processed", "failed", "state", "cache")
FORMATS = ("json", "txt")
HOOK_LOG = "hooks.log"  # below the root of an instance: the documents for which its hook has run
_CLIP_S = 2.5


@dataclass(frozen=True, slots=True)
class Drop:
    """One recording that is dropped: its path within the inbox, its bytes, where it ends."""

    path: str
    content: bytes
    end: str = "processed"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(slots=True)
class Verdict:
    """How often the promise was broken, and in what way."""

    lost: int = 0
    doubled: int = 0
    partial: int = 0
    outside: int = 0
    complaints: list[str] = field(default_factory=list)

    def add(self, kind: str, complaint: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.complaints.append(f"{kind}: {complaint}")

    def join(self, other: Verdict) -> None:
        self.lost += other.lost
        self.doubled += other.doubled
        self.partial += other.partial
        self.outside += other.outside
        self.complaints += other.complaints


def make_drops(folder: Path) -> list[Drop]:
    """Cut clips out of the sample memo; two with the same name, one that is not a recording."""
    samples, rate_hz = soundfile.read(SAMPLES / "memo.wav", dtype="int16")
    n_clip = int(_CLIP_S * rate_hz)
    clips = []
    for start in (0, n_clip):
        soundfile.write(folder / "clip.wav", samples[start : start + n_clip], rate_hz)
        clips.append((folder / "clip.wav").read_bytes())
    (folder / "clip.wav").unlink()
    return [
        Drop("memo.wav", clips[0]),
        Drop("team/memo.wav", clips[1]),
        Drop("words.mp3", b"these are words and no sound\n" * 50, "failed"),
    ]


def places_of(root: Path, folders: dict[str, Path] | None = None) -> dict[str, Path]:
    """Return the folders of an instance by name; `folders` lie elsewhere than below `root`."""
    return {name: root / name for name in FOLDERS} | (folders or {})


def lay_out(
    root: Path,
    drops: list[Drop],
    folders: dict[str, Path] | None = None,
    *,
    hotwords: bool = True,
    has_hook: bool = False,
) -> Path:
    """Make the folders of an instance below `root`, drop the recordings, return the configuration."""
    places = places_of(root, folders)
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    for drop in drops:
        target = places["inbox"] / drop.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(drop.content)
    if hotwords:
        (places["inbox"] / "team" / "memo.hotwords.txt").write_text("budget\n")
    config = root / "config.yaml"
    settings: dict[str, Any] = {
        "folders": {name: str(place) for name, place in places.items()},
        "watch": {"settle_s": 0.5, "scan_s": 0.2, "mode": "poll"},
        "model": {"path": "demo", "device": "cpu"},
        "retry": {"backoff_s": 0},
    }
    if has_hook:
        settings["hooks"] = {"delivered": ["sh", "-c", 'printf "%s\\n" "$1" >>"$0"', str(root / HOOK_LOG)]}
    config.write_text(yaml.safe_dump(settings))
    return config


def run_once(config: Path, log: Path, modules: Path | None = None, command: str = "once") -> int:
    """Be `scribed once`, in this process; its output, and what it has imported at its end, go to files."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(target, stream)
    sys.argv = ["scribed", command, "--config", str(config)]
    code = command_line._run()  # main, without its way out of the process
    if modules is not None:
        modules.write_text("\n".join(sys.modules))
    return code


def check_instant(root: Path, drops: list[Drop], folders: dict[str, Path] | None = None) -> Verdict:
    """Check what holds at any instant, whatever has just died."""
    verdict = Verdict()
    places = places_of(root, folders)
    found: dict[str, list[str]] = {}
    for name in ("inbox", "processed", "failed"):
        for path in files_in(places[name]):
            found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), []).append(str(path))
    is_one_disk = len({places[name].stat().st_dev for name in ("inbox", "processed", "failed")}) == 1
    for drop in drops:
        copies = found.get(drop.sha256, [])
        if not copies:
            verdict.add("lost", f"{drop.path} is nowhere")
        if len(copies) > 1 and is_one_disk:  # between disks there are two until the first is removed
            verdict.add("doubled", f"{drop.path} is at {copies}")
    for path in files_in(places["outbox"]):
        if path.suffix == ".json" and (complaint := _why_not_whole(path)):
            verdict.add("partial", complaint)
    return verdict


def check_end(
    root: Path, drops: list[Drop], texts: dict[str, str] | None = None, folders: dict[str, Path] | None = None
) -> Verdict:
    """Check what holds once all is done; `texts` are the words an undisturbed run found, by path."""
    verdict = check_instant(root, drops, folders)
    places = places_of(root, folders)
    documents = list(_documents(places["outbox"]))
    for drop in drops:
        _check_documents(verdict, drop, documents, texts)
        if not (places[drop.end] / drop.path).exists():
            verdict.add("lost", f"{drop.path} is not in {drop.end}")
        if drop.end == "failed" and not (places["failed"] / f"{drop.path}.error.txt").exists():
            verdict.add("lost", f"{drop.path} has no reason")
    if not (places["processed"] / "team" / "memo.hotwords.txt").exists():
        verdict.add("lost", "the hotwords are not beside their audio")
    _check_strays(verdict, drops, places)
    return verdict


def check_hooks(root: Path, folders: dict[str, Path] | None = None) -> Verdict:
    """Check that the hook of an instance has run for each document that is there, at least once."""
    verdict = Verdict()
    log = root / HOOK_LOG
    announced = log.read_text().splitlines() if log.exists() else []
    for path, _ in documents_in(places_of(root, folders)["outbox"].resolve()):
        if str(path) not in announced:
            verdict.add("lost", f"the hook has not run for {path}")
    return verdict


def _check_documents(
    verdict: Verdict, drop: Drop, documents: list[dict[str, Any]], texts: dict[str, str] | None
) -> None:
    ours = [document for document in documents if document["source"]["sha256"] == drop.sha256]
    n_wanted = 1 if drop.end == "processed" else 0
    if len(ours) < n_wanted:
        verdict.add("lost", f"{drop.path} has no documents")
    if len(ours) > n_wanted:
        verdict.add("doubled", f"{drop.path} has {len(ours)} sets of documents")
    if texts is not None and any(document["text"] != texts[drop.path] for document in ours):
        verdict.add("partial", f"{drop.path} has other words than without the fault")


def _check_strays(verdict: Verdict, drops: list[Drop], places: dict[str, Path]) -> None:
    """Look for documents that are too many or too few, and for what should have been cleared away."""
    wanted = {Path(d.path).with_suffix(f".{e}") for d in drops if d.end == "processed" for e in FORMATS}
    ours = {Path("STATUS.txt"), Path(".scribed/lock")}
    standing = {path.relative_to(places["outbox"]) for path in files_in(places["outbox"])} - ours
    for path in sorted(standing - wanted):
        verdict.add("doubled", f"{path} is in the outbox too")
    for path in sorted(wanted - standing):
        verdict.add("partial", f"{path} is not in the outbox")
    left = [path for place in places.values() for path in place.rglob(f"{TEMPORARY_PREFIX}*")]
    for path in (*left, *(places["inbox"] / ".scribed").glob("*/")):
        verdict.add("partial", f"{path} was left behind")


def texts_of(outbox: Path) -> dict[str, str]:
    """Return the words of every JSON document by the path of its recording."""
    return {document["source"]["path"]: document["text"] for document in _documents(outbox)}


def attempts_of(outbox: Path) -> list[int]:
    """Return the attempt at which each recording was transcribed."""
    return [document["processing"]["attempt"] for document in _documents(outbox)]


def files_in(root: Path) -> list[Path]:
    """Return the files below a folder, without links and our temporary files."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(TEMPORARY_PREFIX)
    ]


def documents_in(outbox: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each JSON document below a folder with its path."""
    for path in files_in(outbox):
        if path.suffix == ".json":
            with suppress(ValueError):  # reported as partial
                yield path, json.loads(path.read_bytes())


def _documents(outbox: Path) -> list[dict[str, Any]]:
    return [document for _, document in documents_in(outbox)]


def _why_not_whole(path: Path) -> str:
    """Return what is wrong with the documents of a JSON that stands: it is put down last."""
    try:
        document = json.loads(path.read_bytes())
        text = path.with_suffix(".txt").read_text()
    except (OSError, ValueError) as error:
        return f"{path}: {error}"
    return "" if text.split() == document["text"].split() else f"{path} and its txt say different things"
