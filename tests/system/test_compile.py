"""The engine's compiler works under the unit's restrictions: what it builds is executed in the cache folder alone."""

from __future__ import annotations

import json
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.test_isolation import run_inside
from tests.system.unit import TIMEOUT_S

if TYPE_CHECKING:
    from tests.system.box import Box
    from tests.system.unit import Unit

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.timeout(TIMEOUT_S),
    pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
]

# Run in the daemon's place, with the rights of its unit: the demo model, plain, then with compiled layers. A GPU needs
# the same of the unit: a compiler that is run, and libraries that are written and loaded.
COMPILE = """
import json, wave
from importlib import resources
from pathlib import Path
import numpy as np
from structlog.testing import capture_logs
from daemon.config import ModelSettings
from daemon.engine import ChunkRequest, load
from daemon.engine.qwen3_asr.graphs import Compiler, count_compiled

with (resources.files("daemon") / "demo/recordings/memo.wav").open("rb") as stream, wave.open(stream) as file:
    samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
chunk = ChunkRequest(samples, None, (), "test")
engine = load(ModelSettings(path=Path("demo"), device="cpu"), Path("/var/cache/scribed"), lambda _: None)
with capture_logs() as logs:
    plain = engine.submit(chunk).result()
    decoder, compiler = engine._model._decoder, Compiler()
    decoder._next_project = compiler(decoder._next_project)
    compiled = engine.submit(chunk).result()
engine.close()
from torch._dynamo.utils import counters
failed = [log["reason"] for log in logs if log["event"] == "engine.compile_failed"]
print(json.dumps({
    "plain": plain.text,
    "compiled": compiled.text,
    "failed": failed,
    "n_compiled": count_compiled(),
    "n_from_cache": counters["inductor"]["fxgraph_cache_hit"],
}))
"""


def compile_inside(box: Box, changes: str = "") -> dict[str, Any]:
    """Run the program above in the unit, with more time to start than a daemon takes."""
    seen: dict[str, Any] = json.loads(run_inside(box, COMPILE, f"TimeoutStartSec=390\n{changes}").splitlines()[-1])
    return seen


def test_layers_are_compiled_into_the_cache_folder_and_only_executed_there(box: Box, unit: Unit) -> None:
    first = compile_inside(box)
    assert first["failed"] == []
    assert first["n_compiled"] > 0
    assert first["n_from_cache"] == 0
    assert first["compiled"] == first["plain"] != ""
    folder = unit.path("cache", "inductor")
    libraries = list(folder.rglob("*.so"))
    assert libraries
    assert folder.stat().st_uid == int(box.do("id", "--user", "scribed"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    built_at = {path: path.stat().st_mtime_ns for path in libraries}

    again = compile_inside(box)
    assert again["failed"] == []
    assert again["n_from_cache"] > 0
    assert again["compiled"] == first["plain"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.so")} == built_at

    # Where a drop-in forbids it, the engine goes on uncompiled. The folder is a mount of its own: "/" is not enough.
    elsewhere = "ExecPaths=\nExecPaths=/usr -/bin -/lib -/lib64 /opt/scribed\nNoExecPaths=/var/cache/scribed\n"
    refused = compile_inside(box, elsewhere)
    assert refused["failed"]
    assert refused["compiled"] == first["plain"]
