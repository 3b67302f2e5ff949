from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import Qwen3ASRForConditionalGeneration

from daemon import checkpoint
from daemon.config import ModelSettings
from daemon.engine import load
from daemon.engine.loading import choose_device, choose_dtype
from daemon.engine.scheduler import ContinuousEngine
from daemon.errors import EngineUnavailableError
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_piece, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def load_tiny(path: Path, tmp_path: Path, **settings: Any) -> ContinuousEngine:  # noqa: ANN401  # fields of ModelSettings
    chosen = ModelSettings(path=path, **({"device": "cpu"} | settings))
    engine = load(chosen, tmp_path / "cache", lambda _: None)
    assert isinstance(engine, ContinuousEngine)
    return engine


def test_a_loaded_engine_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    engine = load(ModelSettings(path=folder, device="cpu"), tmp_path, steps.append)
    try:
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert engine.identity == ModelIdentity("tiny", digest, "float32", "cpu")
        assert engine.max_pieces == 8
        assert engine.is_alive()
        assert len(steps) == 2
        assert "the CPU as float32" in steps[0]
        assert engine.submit(make_piece()).result(TIMEOUT_S)
    finally:
        engine.close()


def test_weights_may_lie_in_several_files(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "sharded", torch.bfloat16)
    whole = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="100KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    engine = load_tiny(folder, tmp_path, dtype="bfloat16", slots=2)
    engine.close()
    sums = subprocess.run(["sha256sum", *(path.name for path in shards)], cwd=folder, capture_output=True, check=True)
    assert engine.identity.digest == hashlib.sha256(sums.stdout).hexdigest()
    assert engine.identity.dtype == "bfloat16"
    shards[0].unlink()
    with pytest.raises(EngineUnavailableError, match=f"lacks {shards[0].name}"):
        load_tiny(folder, tmp_path)


def test_demo_is_the_model_within_the_package() -> None:
    assert checkpoint.find_folder("demo") == Path(checkpoint.__file__).parent / "demo" / "model"
    assert checkpoint.find_folder(Path("/srv/models/demo")) == Path("/srv/models/demo")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_text(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def cut(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:n_bytes])


def rename_tensors(folder: Path, prefix: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    n_header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n_header_bytes])
    header = {name if name == "__metadata__" else prefix + name: tensor for name, tensor in header.items()}
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + n_header_bytes :])


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda f: cut(f / "config.json", 40), "config.json is broken"),
    "another model": (lambda f: edit_json(f / "config.json", model_type="whisper"), "type 'whisper'"),
    "original layout": (lambda f: edit_json(f / "config.json", thinker_config={}), "original layout.*-hf"),
    "original tensors": (lambda f: rename_tensors(f, "thinker."), "original layout.*-hf"),
    "other tensors": (lambda f: rename_tensors(f, "other."), "lack, such as"),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no model.safetensors.*never loaded",
    ),
    "truncated": (lambda f: cut(f / "model.safetensors", 500_000), "not whole: it has 500,000 of"),
    "only a header": (lambda f: cut(f / "model.safetensors", 100), "does not begin as safetensors do"),
    "empty": (lambda f: cut(f / "model.safetensors", 0), "does not begin as safetensors do"),
    "header is no JSON": (
        lambda f: (f / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"nonsense"),
        "list of tensors",
    ),
    "header is no list": (
        lambda f: (f / "model.safetensors").write_bytes((9).to_bytes(8, "little") + b'{"a":"b"}'),
        "list of tensors",
    ),
    "other sizes": (
        lambda f: (f / "config.json").write_text(
            (f / "config.json").read_text().replace('"d_model": 64', '"d_model": 32')
        ),
        "cannot be loaded|do not fit",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "tokenizer is no JSON": (lambda f: cut(f / "tokenizer.json", 100), "cannot be loaded"),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), "no processor_config.json"),
    "no chat template": (lambda f: (f / "chat_template.jinja").unlink(), "test inference failed"),
    "broken chat template": (lambda f: (f / "chat_template.jinja").write_text("{% for"), "test inference failed"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_model_is_named_with_its_remedy(breakage: str, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    break_it, message = BREAKAGES[breakage]
    break_it(broken)
    with pytest.raises(EngineUnavailableError, match=message) as raised:
        load_tiny(broken, tmp_path)
    assert str(broken) in str(raised.value) or "test inference" in str(raised.value)
    assert "scribed fetch-model" in raised.value.remedy
    assert "\n" not in str(raised.value)


def test_a_missing_model_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match=r"no model at .*/nowhere.*sudo scribed fetch-model"):
        load_tiny(tmp_path / "nowhere", tmp_path)


# --- devices

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_asked_for_is_never_replaced_by_the_cpu(device: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match=r"GPU cuda:[01] cannot be used.*model.device to cpu"):
        load_tiny(folder, tmp_path, device=device)


@no_gpu
@pytest.mark.parametrize("sign", ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:01:00.0"])
def test_a_gpu_that_is_present_must_work(sign: str, tmp_path: Path) -> None:
    assert choose_device("auto", tmp_path) == torch.device("cpu")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert choose_device("auto", tmp_path) == torch.device("cpu")
    (tmp_path / sign).mkdir(parents=True)
    with pytest.raises(EngineUnavailableError, match="GPU cuda:0 cannot be used"):
        choose_device("auto", tmp_path)
    assert choose_device("cpu", tmp_path) == torch.device("cpu")


def test_the_cpu_computes_in_float32_unless_told_otherwise() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16


def test_the_interface_needs_no_torch() -> None:
    code = (
        "import sys, daemon.engine, daemon.checkpoint; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
