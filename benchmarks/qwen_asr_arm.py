"""qwen-asr in the engine benchmark. It runs in its own environment, so it imports nothing of this project.

Each line of JSON on standard input is a run; a line with its figures goes to standard output. See
`contenders.QwenAsr`. The library is used as shipped, on its transformers backend; only the batch size and the
number of tokens are set.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Final

import numpy as np
import torch
from qwen_asr import Qwen3ASRModel  # type: ignore[import-not-found]  # installed in the other environment only

_RATE_HZ: Final = 16_000


def main() -> None:
    """Load the model and run the requests until standard input ends."""
    folder, device, dtype, n_threads = sys.argv[1:]
    torch.set_num_threads(int(n_threads))
    model = Qwen3ASRModel.from_pretrained(folder, dtype=getattr(torch, dtype), device_map=device)
    names = ("qwen-asr", "transformers", "torch")
    print(json.dumps({"versions": ", ".join(f"{name} {version(name)}" for name in names)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        samples = np.load(request["samples"])
        model.max_inference_batch_size = request["batch"]
        batches = [
            ([(samples[str(index)], _RATE_HZ) for index in batch["chunks"]], batch) for batch in request["batches"]
        ]
        synchronize(device)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        for audio, batch in batches:
            model.max_new_tokens = batch["n_tokens"]
            model.transcribe(audio=audio)
        synchronize(device)
        took_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        n_steps = sum(batch["n_tokens"] for _, batch in batches)
        print(json.dumps({"took_s": took_s, "cpu_s": cpu_s, "n_steps": n_steps}), flush=True)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


main()
