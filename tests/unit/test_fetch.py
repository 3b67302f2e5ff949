"""`scribed fetch-model`: models from folders and from a hub, complete or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from daemon import checkpoint
from daemon.checkpoint.fetch import DEFAULT_MODEL, MODELSCOPE, fetch
from daemon.errors import AlreadyRunningError, CannotWriteError, EngineUnavailableError, TransientError, UsageError
from daemon.host.files import free_bytes
from daemon.host.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "Qwen3-ASR-1.7B-hf"


def write_weights(path: Path, n_bytes: int = 4096) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [n_bytes // 4], "data_offsets": [0, n_bytes]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + n_bytes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3_asr"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "processor_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "merges.txt").write_text("a b\n")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    (folder / "README.md").write_text("about")
    write_weights(folder / "model.safetensors")
    return folder


WANTED = {
    "chat_template.jinja",
    "config.json",
    "merges.txt",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_model_is_copied_from_a_folder(source: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    (source / "tokenizer.json").chmod(0o600)
    folder = fetch(DEFAULT_MODEL, str(source), tmp_path / "models", steps.append)
    assert folder == tmp_path / "models" / NAME
    assert names(folder) == WANTED
    assert (folder / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert checkpoint.inspect(folder).weights == (folder / "model.safetensors",)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert folder.stat().st_mode & 0o777 == 0o755
    assert names(folder.parent) == {NAME, f".{NAME}.lock"}
    assert str(source) in steps[0]
    assert str(folder) in steps[-1]


def test_source_that_is_the_target_itself_is_refused_even_if_forced(source: Path, tmp_path: Path) -> None:
    folder = fetch(DEFAULT_MODEL, str(source), tmp_path / "models", lambda _: None)
    (folder / "notes.md").write_text("mine")
    (tmp_path / "other-name").symlink_to(folder)
    for origin in (folder, tmp_path / "other-name"):
        with pytest.raises(CannotWriteError, match="is the destination folder itself"):
            fetch(DEFAULT_MODEL, str(origin), tmp_path / "models", lambda _: None, is_forced=True)
    assert (folder / "notes.md").read_text() == "mine"


def test_complete_model_is_fetched_again_with_force(source: Path, tmp_path: Path) -> None:
    folder = fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None)
    inode = folder.stat().st_ino
    assert fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None, is_forced=True) == folder
    assert folder.stat().st_ino != inode
    assert names(tmp_path) == {NAME, f".{NAME}.lock", "source"}


def test_links_in_the_source_are_copied_as_files(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors").rename(tmp_path / "blob")
    (source / "model.safetensors").symlink_to(tmp_path / "blob")
    folder = fetch("some/model", str(source), tmp_path / "models", lambda _: None)
    assert not (folder / "model.safetensors").is_symlink()


def test_folder_with_an_incomplete_model_is_refused(source: Path, tmp_path: Path) -> None:
    os.truncate(source / "model.safetensors", 500)
    with pytest.raises(EngineUnavailableError, match=r"source/model\.safetensors is incomplete"):
        fetch(DEFAULT_MODEL, str(source), tmp_path / "models", lambda _: None)
    assert not (tmp_path / "models" / NAME).exists()


def test_complete_model_is_left_alone(source: Path, tmp_path: Path) -> None:
    folder = fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None)
    inode = folder.stat().st_ino
    steps: list[str] = []
    assert fetch(DEFAULT_MODEL, "/nowhere", tmp_path, steps.append) == folder
    assert folder.stat().st_ino == inode
    assert "--force" in steps[0]


def test_broken_model_is_replaced_with_force_only(source: Path, tmp_path: Path) -> None:
    folder = fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None)
    os.truncate(folder / "model.safetensors", 500)
    (folder / "old.json").write_text("{}")
    with pytest.raises(CannotWriteError, match="not a complete model"):
        fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None)
    assert (folder / "old.json").exists()
    assert fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None, is_forced=True) == folder
    assert names(folder) == WANTED
    assert names(tmp_path) == {NAME, f".{NAME}.lock", "source"}


def test_interrupted_fetch_is_resumed(source: Path, tmp_path: Path) -> None:
    partial = tmp_path / f".{NAME}.partial"
    (partial / ".cache").mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    folder = fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None)
    assert names(folder) == WANTED
    assert not partial.exists()


def test_full_disk_is_reported_before_the_copy(source: Path, tmp_path: Path) -> None:
    write_weights(source / "model.safetensors", free_bytes(tmp_path) // 4 * 4)
    with pytest.raises(TransientError, match=r"needs [\d.]+ GB in .*/models, but only [\d.]+ GB are free"):
        fetch(DEFAULT_MODEL, str(source), tmp_path / "models", lambda _: None)
    assert not (tmp_path / "models" / NAME).exists()


def test_folder_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TransientError, match=r"could not be put into .*file/models"):
        fetch(DEFAULT_MODEL, str(source), tmp_path / "file" / "models", lambda _: None)


def test_second_fetch_of_the_same_model_is_refused_while_one_runs(source: Path, tmp_path: Path) -> None:
    other = Lock(tmp_path / f".{NAME}.lock")
    other.acquire("it")
    try:
        with pytest.raises(AlreadyRunningError):
            fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None)
    finally:
        other.release()
    assert fetch(DEFAULT_MODEL, str(source), tmp_path, lambda _: None)


@pytest.mark.parametrize("model_id", ["", "../models", "a/../b", "a/b/c", ".hidden", "a/.hidden", "/etc", "a b", "-x"])
def test_id_that_leads_out_of_the_folder_is_refused(model_id: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a model ID"):
        fetch(model_id, str(source), tmp_path / "models", lambda _: None)
    assert not (tmp_path / "models").exists()


@pytest.mark.skipif(importlib.util.find_spec("modelscope") is not None, reason="modelscope is installed here")
def test_missing_modelscope_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="-m pip install modelscope"):
        fetch(DEFAULT_MODEL, MODELSCOPE, tmp_path, lambda _: None)


# --- a hub


class Hub(ThreadingHTTPServer):
    """Speaks as much of the hub's protocol as fetching a model needs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.fetched: list[str] = []
        self.refused: set[str] = set()


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        files = self.server.files
        name = self.path.rpartition("/")[2]
        if name in files:
            if has_body and name in self.server.refused:
                self.send_error(403)
                return
            if has_body:
                self.server.fetched.append(name)
            self._send(files[name], has_body=has_body)
        elif "/revision/" in self.path and files:
            siblings = [{"rfilename": name} for name in files]
            self._send(
                json.dumps({"id": DEFAULT_MODEL, "sha": "c" * 40, "siblings": siblings}).encode(), has_body=has_body
            )
        elif "/tree/" in self.path and files:
            tree = [{"type": "file", "path": n, "size": len(files[n]), "oid": "0" * 40} for n in files]
            self._send(json.dumps(tree).encode(), has_body=has_body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, body: bytes, *, has_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(source: Path) -> Iterator[Hub]:
    with Hub(source) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch_from(endpoint: str, target: Path) -> subprocess.CompletedProcess[str]:
    """Fetch in a process of its own: the hub's client reads its environment when it is imported."""
    code = (
        "import sys; from pathlib import Path; from daemon.errors import ScribedError\n"
        "from daemon.checkpoint.fetch import DEFAULT_MODEL, HUB, fetch\n"
        "try: fetch(DEFAULT_MODEL, HUB, Path(sys.argv[1]), print)\n"
        "except ScribedError as error: sys.exit(f'{type(error).__name__}: {error}')"
    )
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(target / "home"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, str(target)], env=environment, capture_output=True, text=True, check=False
    )


def test_model_is_fetched_from_a_hub_without_its_pickles(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "models"
    done = fetch_from(f"http://127.0.0.1:{hub.server_port}", target)
    assert done.returncode == 0, done.stderr
    assert names(target / NAME) == WANTED
    assert set(hub.fetched) == WANTED
    assert (target / NAME / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_interrupted_download_resumes_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    target, endpoint = tmp_path / "models", f"http://127.0.0.1:{hub.server_port}"
    hub.refused.add("model.safetensors")
    done = fetch_from(endpoint, target)
    assert done.returncode == 1
    assert "resumes where it stopped" in done.stderr
    assert not (target / NAME).exists()
    done_before = set(hub.fetched)
    assert done_before
    hub.refused.clear()
    hub.fetched.clear()
    assert fetch_from(endpoint, target).returncode == 0
    assert names(target / NAME) == WANTED
    assert set(hub.fetched) == WANTED - done_before


def test_unreachable_hub_is_reported(tmp_path: Path) -> None:
    done = fetch_from("http://127.0.0.1:9", tmp_path / "models")
    assert done.returncode == 1
    assert done.stderr.startswith(f"EngineUnavailableError: {DEFAULT_MODEL} could not be fetched: ")
    assert "Check the network" in done.stderr
    assert "Traceback" not in done.stderr


def test_model_that_the_hub_does_not_have_is_reported(hub: Hub, tmp_path: Path) -> None:
    hub.files.clear()
    done = fetch_from(f"http://127.0.0.1:{hub.server_port}", tmp_path / "models")
    assert done.returncode == 1
    assert done.stderr.startswith(f"EngineUnavailableError: huggingface.co has no {DEFAULT_MODEL}")
    assert not (tmp_path / "models" / NAME).exists()
