from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ASRForConditionalGeneration

import daemon
from daemon import checkpoint
from daemon.config import ModelSettings
from daemon.engine import _claim_cache, load
from daemon.engine.qwen3_asr import original
from daemon.engine.scheduler import ContinuousEngine
from daemon.errors import EngineUnavailableError
from daemon.host import memory
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 600.0  # only to find out what hangs, however busy the machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def load_tiny(path: Path, tmp_path: Path, **settings: Any) -> ContinuousEngine:  # noqa: ANN401  # fields of ModelSettings
    chosen = ModelSettings(path=path, **({"device": "cpu"} | settings))
    engine = load(chosen, tmp_path / "cache", lambda _: None)
    assert isinstance(engine, ContinuousEngine)
    return engine


def test_loaded_engine_knows_its_identity(folder: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    engine = load(ModelSettings(path=folder, device="cpu"), tmp_path, steps.append)
    try:
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert engine.identity == ModelIdentity("tiny", digest, "float32", "cpu")
        assert engine.max_in_flight == 8
        assert engine.is_alive()
        assert len(steps) == 2
        assert "the CPU as float32" in steps[0]
        assert engine.submit(make_chunk()).result(TIMEOUT_S)
    finally:
        engine.close()


def test_weights_may_be_split_over_several_files(tmp_path: Path) -> None:
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


def test_demo_means_the_model_inside_the_package() -> None:
    assert checkpoint.find_folder("demo") == Path(daemon.__file__).parent / "demo" / "model"
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
    "config is not JSON": (lambda f: cut(f / "config.json", 40), "config.json is damaged"),
    "another model": (lambda f: edit_json(f / "config.json", model_type="whisper"), "type 'whisper'"),
    "original config": (lambda f: edit_json(f / "config.json", thinker_config={}), "mixes two layouts"),
    "original tensors": (lambda f: rename_tensors(f, "thinker."), "mixes two layouts"),
    "other tensors": (lambda f: rename_tensors(f, "other."), "are missing, such as"),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no model.safetensors.*never loaded",
    ),
    "truncated": (lambda f: cut(f / "model.safetensors", 500_000), "incomplete: it has 500,000 of"),
    "only a header": (lambda f: cut(f / "model.safetensors", 100), "does not begin like a safetensors file"),
    "empty": (lambda f: cut(f / "model.safetensors", 0), "does not begin like a safetensors file"),
    "header is not JSON": (
        lambda f: (f / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"nonsense"),
        "list of tensors",
    ),
    "header is not an object": (
        lambda f: (f / "model.safetensors").write_bytes((9).to_bytes(8, "little") + b'{"a":"b"}'),
        "list of tensors",
    ),
    "other sizes": (
        lambda f: (f / "config.json").write_text(
            (f / "config.json").read_text().replace('"d_model": 64', '"d_model": 32')
        ),
        "cannot be loaded|do not match",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "tokenizer is not JSON": (lambda f: cut(f / "tokenizer.json", 100), "cannot be loaded"),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), "no processor_config.json"),
    "no chat template": (lambda f: (f / "chat_template.jinja").unlink(), "test inference failed"),
    "broken chat template": (lambda f: (f / "chat_template.jinja").write_text("{% for"), "test inference failed"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_model_is_reported_with_its_remedy(breakage: str, folder: Path, tmp_path: Path) -> None:
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


def test_missing_model_is_reported_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match=r"no model at .*/nowhere.*sudo scribed fetch-model"):
        load_tiny(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize(("swap_kb", "is_short"), [(0, True), (1_000_000, False)])
def test_weights_that_other_programs_leave_no_memory_for_are_not_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap_kb: int, *, is_short: bool
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 8000000 kB\nMemAvailable: 100 kB\nSwapFree: {swap_kb} kB\nHugePages_Total: 0\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    if is_short:
        with pytest.raises(EngineUnavailableError, match=r"Too little memory for the model: 0\.0 GB free") as raised:
            load_tiny(folder, tmp_path)
        assert raised.value.remedy == "Stop other programs or add memory."
    else:
        load_tiny(folder, tmp_path).close()


# --- the original layout


def to_original(native: Path, folder: Path) -> Path:
    """Copy a checkpoint into the layout in which the model was first published."""
    folder.mkdir()
    config = json.loads((native / "config.json").read_text())
    text, rope = config["text_config"], config["text_config"].pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"mrope_section": [24, 20, 20], "type": "default"}}
    thinker = {"audio_config": config["audio_config"], "text_config": text, "audio_token_id": config["audio_token_id"]}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_asr", "thinker_config": thinker}))
    names = {
        "model.multi_modal_projector.linear_1.": "thinker.audio_tower.proj1.",
        "model.multi_modal_projector.linear_2.": "thinker.audio_tower.proj2.",
        "model.audio_tower.": "thinker.audio_tower.",
        "model.language_model.": "thinker.model.",
        "lm_head.": "thinker.lm_head.",
    }
    weights = load_file(native / "model.safetensors")
    renamed = {
        next(new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)): weight
        for name, weight in weights.items()
    }
    save_file(renamed, folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((native / name).read_bytes())
    (folder / "generation_config.json").write_bytes((native / "generation_config.json").read_bytes())
    (folder / "preprocessor_config.json").write_text('{"feature_extractor_type": "WhisperFeatureExtractor"}')
    return folder


def test_both_layouts_write_the_same_text(tmp_path: Path) -> None:
    native = save_tiny_model(tmp_path / "native")
    first_published = to_original(native, tmp_path / "original")
    # The tiny model has a prompt of its own; the released models have the same prompt in both layouts.
    (native / "chat_template.jinja").write_text(original._CHAT_TEMPLATE)
    chunks = [make_chunk(2, seed=1), make_chunk(1, "English", seed=2), make_chunk(3, None, ("word1",), seed=3)]
    responses = []
    for folder in (native, first_published):
        engine = load_tiny(folder, tmp_path)
        responses.append([engine.submit(chunk).result(TIMEOUT_S) for chunk in chunks])
        engine.close()
    assert responses[0] == responses[1]
    assert len({response.text for response in responses[0]}) == 3


def test_interface_does_not_import_torch() -> None:
    code = (
        "import sys, daemon.engine, daemon.checkpoint; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- compiled kernels


def test_kernels_are_cached_in_folders_of_our_own(tmp_path: Path) -> None:
    assert _claim_cache(tmp_path / "cache" / "triton") == tmp_path / "cache" / "triton"
    assert stat.S_IMODE((tmp_path / "cache" / "triton").stat().st_mode) == 0o700
    assert _claim_cache(tmp_path / "cache" / "triton").is_dir(), "the second start"


def open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def link_elsewhere(folder: Path) -> None:
    folder.symlink_to(folder.parent)


def give_away(folder: Path) -> None:
    folder.mkdir(0o700)
    os.chown(folder, 12345, 12345)


@pytest.mark.parametrize(
    "prepare",
    [
        open_to_others,
        link_elsewhere,
        pytest.param(give_away, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")),
    ],
)
def test_kernels_that_others_could_have_changed_are_refused(prepare: Callable[[Path], None], tmp_path: Path) -> None:
    prepare(tmp_path / "triton")
    with pytest.raises(EngineUnavailableError, match="Other users could have changed the compiled kernels") as raised:
        _claim_cache(tmp_path / "triton")
    assert f"rm -r {tmp_path / 'triton'}" in raised.value.remedy
