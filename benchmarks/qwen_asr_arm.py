"""The arm of qwen-asr in the benchmark of the engine: runs in an environment of its own, so it imports nothing of ours.

A line of JSON comes in for each run and one goes out with what it took; see `contenders.QwenAsr`. The library is
used as shipped, on its transformers backend; of its settings only the batch and the length of answers are set.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np
import torch
from qwen_asr import Qwen3ASRModel  # type: ignore[import-not-found]  # of the other environment

_RATE_HZ = 16_000


def main() -> None:
    """Load the model and answer until there is nothing more to answer."""
    folder, device, dtype, n_threads = sys.argv[1:]
    torch.set_num_threads(int(n_threads))
    model = Qwen3ASRModel.from_pretrained(folder, dtype=getattr(torch, dtype), device_map=device)
    names = ("qwen-asr", "transformers", "torch")
    print(json.dumps({"versions": ", ".join(f"{name} {version(name)}" for name in names)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        sounds = np.load(request["sounds"])
        model.max_inference_batch_size = request["batch"]
        batches = [([(sounds[str(one)], _RATE_HZ) for one in batch["pieces"]], batch) for batch in request["batches"]]
        synchronize(device)
        begun_s, cpu_s = time.perf_counter(), time.process_time()
        for audio, batch in batches:
            model.max_new_tokens = batch["n_tokens"]
            model.transcribe(audio=audio)
        synchronize(device)
        took_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - cpu_s
        n_steps = sum(batch["n_tokens"] for _, batch in batches)
        print(json.dumps({"took_s": took_s, "cpu_s": cpu_s, "n_steps": n_steps}), flush=True)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


main()
