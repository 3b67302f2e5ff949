"""Train the demo model on synthetic speech, export it, and print its word error.

    python tools/train_demo_model.py --out daemon/demo/model --minutes 206
    python tools/train_demo_model.py --evaluate daemon/demo/model

Fine-tune a trained model on natural voices as well, which ``tools/demo_voices.py`` has written to a folder:

    python tools/train_demo_model.py --from daemon/demo/model --voices build/voices --out build/model --minutes 100

Each process trains on one core with speech that it makes itself, and gradients are averaged after each step: on a
few cores that is faster than one process with several threads, whose operations are too small to share. The stages
follow the clock, so a slower machine makes fewer steps in the same time.
"""

import argparse
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from demo_clips import Clip, ClipMaker, MixedPool, NoiseBank, RecordedPool, SpeechPool, WarpedLogMel
from demo_evaluation import LENGTHS_S, HeldOut, Listener, held_out_voices, table, word_error_rate
from demo_model import build_model, build_processor, build_tokenizer, export
from demo_muon import Muon
from demo_speech import ENGLISH
from demo_trainee import ConversationMaker, Trainee
from torch.multiprocessing.spawn import spawn
from transformers import Qwen3ASRForConditionalGeneration

_log = logging.getLogger("train")

PEAK_LEARNING_RATES: Final = (6e-3, 2e-3, 2e-3)  # of matrices (Muon), of the rest, and of the helper layers (AdamW)
_POOL_S: Final = 4_000.0  # of each process
_STEPS_PER_FRESH_VOICE: Final = 5
_TRAINED_STEPS_PER_FRESH_VOICE: Final = 20
_BATCH_S: Final = 60.0
_TRAINED_BATCH_S: Final = 30.0  # of a trained model: twice as many steps in the same time
_SAVE_MINUTES: Final = 4.0
_MOST_CLIPS: Final = 36
_NOT_SPEECH_SHARE: Final = 0.08
_AVERAGE_KEEP: Final = 0.999
_TRAINED_AVERAGE_KEEP: Final = 0.995  # of a trained model, whose training is short
_NATURAL_SHARE: Final = 0.65  # of the speech, where there are natural voices
_WHOLE_NATURAL_SHARE: Final = 0.5  # the same where a trained decoder is trained too
_STEPS_ALONE: Final = 60  # in which only the helper layers learn, while a trained model stays as it is
_TRAINED: Final = 0.5  # the stage of the training where a trained model stays until its learning rate falls
_TRAINED_RATE: Final = 0.6  # its share of the learning rates
_WHOLE_RATE: Final = 0.4  # the same where its decoder is trained too
LOSSES: Final = ("answer", "spoken now", "spoken so far", "spoken before", "place")  # as ``Trainee`` returns them


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """The options of the command line."""

    out: Path
    minutes: float
    work: Path
    seed: int
    processes: int
    check_minutes: float
    cooldown_minutes: float
    resume: bool
    start: Path | None
    is_whole: bool
    voices: Path | None
    dtype: torch.dtype


def length_weights(progress: float) -> tuple[float, ...]:
    """Return how often each of ``LENGTHS_S`` is drawn: short clips first, or the decoder does not learn to listen."""
    if progress < 0.06:
        return (1.0, 0.0, 0.0, 0.0)
    if progress < 0.2:
        return (0.3, 0.7, 0.0, 0.0)
    if progress < 0.38:
        return (0.15, 0.5, 0.35, 0.0)
    return (0.15, 0.25, 0.25, 0.35)


# The encoder of a trained model hears 8 s at once: long clips teach it nothing more, and cost more.
_TRAINED_LENGTH_WEIGHTS: Final = (0.15, 0.45, 0.25, 0.15)


def loss_weights(progress: float) -> tuple[float, ...]:
    """Return the weights of the losses of ``Trainee``: words first, then answers and their places in long clips."""
    if progress < 0.06:
        return (0.1, 1.0, 0.3, 0.0, 0.0)
    return (1.0, 0.3, 0.3, 0.2, 0.3) if progress < 0.8 else (1.0, 0.1, 0.15, 0.1, 0.15)


def learning_rate(progress: float, step: int) -> float:
    """Return the share of the peak: rising for 100 steps, constant until half time, then falling to a hundredth."""
    fall = 1.0 if progress < 0.5 else max(0.01, 2.0 - 2.0 * progress)
    return fall * min(1.0, (step + 1) / 100)


class Trainer:
    """One process of the training: its speech, its copy of the model, its share of each step."""

    def __init__(self, rank: int, options: TrainingOptions) -> None:
        self._rank, self._options = rank, options
        torch.manual_seed(options.seed)  # the same first weights in each process
        self._shared_rng = random.Random(options.seed)  # lengths must agree between processes
        self._rng = random.Random(options.seed + 1 + rank)
        self._tokenizer = build_tokenizer([ENGLISH])
        self._trainee = Trainee(
            build_model(self._tokenizer), is_trained=options.start is not None, is_whole=options.is_whole
        ).train()
        if options.start is not None:
            trained = Qwen3ASRForConditionalGeneration.from_pretrained(options.start, dtype=torch.float32)
            self._trainee.model.load_state_dict(trained.state_dict())
        # Steps are taken in float32. Sound may go through a copy in bf16: as the model will be used on a GPU, and
        # faster where a CPU has instructions for it (AMX); without them it is nine times slower.
        self._weights = {k: torch.nn.Parameter(v.detach().clone()) for k, v in self._learned().items()}
        # Muon for the matrices, AdamW for the rest: with AdamW alone the same loss took more than twice as many steps.
        is_helper = {k: "spoken" in k for k in self._weights}
        is_matrix = {k: v.ndim == 2 and "embed" not in k and "spoken" not in k for k, v in self._weights.items()}
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            Muon([v for k, v in self._weights.items() if is_matrix[k]]),
            torch.optim.AdamW(
                [v for k, v in self._weights.items() if not is_matrix[k] and not is_helper[k]],
                betas=(0.9, 0.98), weight_decay=0.01,
            ),
            torch.optim.AdamW(
                [v for k, v in self._weights.items() if is_helper[k]], betas=(0.9, 0.98), weight_decay=0.01
            ),
        )  # fmt: skip
        self._average = {k: v.detach().clone() for k, v in self._weights.items()}
        self._trainee.to(options.dtype)
        self._step, self._earlier_s = 0, 0.0
        if options.resume:
            self._load()
        self._pool = SpeechPool(ENGLISH, self._rng, _POOL_S / 4 if options.start else _POOL_S, held_out=False)
        self._natural = RecordedPool(options.voices / "training", self._rng) if options.voices else None
        share = _WHOLE_NATURAL_SHARE if options.is_whole else _NATURAL_SHARE
        speech = MixedPool(self._pool, self._natural, share, self._rng) if self._natural else self._pool
        noises = NoiseBank(self._rng.getrandbits(30), 24 if options.start else 48)
        self._maker = ClipMaker(self._rng, speech, noises, varied=True)
        self._converse = ConversationMaker(self._tokenizer, ENGLISH, self._rng)
        self._features = WarpedLogMel()

    @property
    def _trains_encoder_alone(self) -> bool:
        return self._options.start is not None and not self._options.is_whole

    def _learned(self) -> dict[str, torch.nn.Parameter]:
        return {k: v for k, v in self._trainee.named_parameters() if v.requires_grad}

    def run(self) -> None:
        """Train until the time is up; process 0 checks and exports the model at intervals."""
        started, total_s, next_save_s = time.monotonic(), self._options.minutes * 60, 0.0
        next_check_s = self._earlier_s + self._options.check_minutes * 60
        losses = torch.zeros(len(LOSSES))
        while True:
            # All follow the clock of process 0, so that they stop at the same step.
            clock = torch.tensor([self._earlier_s + time.monotonic() - started])
            dist.broadcast(clock, 0)
            elapsed_s = float(clock)
            if elapsed_s >= total_s:
                break
            losses += self._one_step(self._progress(elapsed_s, total_s))
            if self._step % 50 == 0:
                self._report(elapsed_s, losses / 50)
                losses.zero_()
            if elapsed_s >= next_check_s:
                next_check_s += self._options.check_minutes * 60
                self._check(elapsed_s)
            elif elapsed_s >= next_save_s:
                next_save_s = elapsed_s + _SAVE_MINUTES * 60
                self._save(elapsed_s)
        self._check(total_s)

    def _progress(self, elapsed_s: float, total_s: float) -> float:
        """Return the stage of the training, 0 to 1. The learning rate of a trained model falls at the end alone."""
        if not self._options.start:
            return elapsed_s / total_s
        left = (total_s - elapsed_s) / (self._options.cooldown_minutes * 60)
        return _TRAINED + (1 - _TRAINED) * max(0.0, 1 - left)

    def _one_step(self, progress: float) -> torch.Tensor:
        share = (_WHOLE_RATE if self._options.is_whole else _TRAINED_RATE) if self._options.start else 1.0
        for optimizer, peak in zip(self._optimizers, PEAK_LEARNING_RATES, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * peak * learning_rate(progress, self._step)
        clips = self._clips(progress)
        features, n_frames = self._features(clips)
        conversations = [self._converse(clip.words, clip.times) for clip in clips]
        features = features.to(self._options.dtype)
        is_alone = self._options.start is not None and self._step < _STEPS_ALONE
        if is_alone:
            losses = (torch.zeros(()), self._trainee.helper_loss(features, n_frames, conversations), *torch.zeros(3))
        else:
            losses = self._trainee(features, n_frames, conversations)
        sum(w * loss for w, loss in zip(loss_weights(progress), losses, strict=True)).backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        for optimizer in self._optimizers[-1:] if is_alone else self._optimizers:
            optimizer.step()
        self._step += 1
        most = _TRAINED_AVERAGE_KEEP if self._options.start else _AVERAGE_KEEP
        keep = min(most, self._step / (self._step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), 1 - keep)
            torch._foreach_copy_(list(self._learned().values()), list(self._weights.values()))
        if self._step % (_TRAINED_STEPS_PER_FRESH_VOICE if self._options.start else _STEPS_PER_FRESH_VOICE) == 0:
            self._pool.renew()
        if self._natural is not None and self._step % 500 == 0:
            self._natural.renew()
        return torch.stack([loss.detach().float() for loss in losses])

    def _clips(self, progress: float) -> list[Clip]:
        weights = _TRAINED_LENGTH_WEIGHTS if self._trains_encoder_alone else length_weights(progress)
        low, high = self._shared_rng.choices(LENGTHS_S, weights)[0]
        longest = self._shared_rng.uniform((low + high) / 2, high)
        seconds, clips = (max(low, longest * 0.7), longest), []
        batch_s = _TRAINED_BATCH_S if self._trains_encoder_alone else _BATCH_S
        for _ in range(max(1, min(_MOST_CLIPS, round(batch_s / longest)))):
            if self._rng.random() < _NOT_SPEECH_SHARE:
                clips.append(self._maker.not_speech(self._rng.uniform(0.5, longest)))
            else:
                is_noisy = self._rng.random() < min(0.6, progress * 6)
                clips.append(self._maker.speech(seconds, (6.0, 40.0) if is_noisy else None))
        return clips

    def _share_gradients(self) -> None:
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._learned().values()]
        sizes = [gradient.numel() for gradient in gradients]
        flat = torch.cat([gradient.flatten() for gradient in gradients]).float()
        dist.all_reduce(flat)
        flat /= self._options.processes
        for weight, piece in zip(self._weights.values(), torch.split(flat, sizes), strict=True):
            weight.grad = piece.view_as(weight)
        self._trainee.zero_grad()

    def _report(self, elapsed_s: float, losses: torch.Tensor) -> None:
        if self._rank == 0:
            named = "  ".join(f"{name} {loss:.3f}" for name, loss in zip(LOSSES, losses.tolist(), strict=True))
            _log.info("%5.1f min  step %5d  %s", elapsed_s / 60, self._step, named)

    def _save(self, elapsed_s: float) -> None:
        """Save a checkpoint."""
        if self._rank != 0:
            return
        state = {
            "weights": self._weights, "average": self._average, "step": self._step, "elapsed_s": elapsed_s,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }  # fmt: skip
        self._options.work.mkdir(parents=True, exist_ok=True)
        torch.save(state, self._options.work / "checkpoint.pt.part")
        (self._options.work / "checkpoint.pt.part").rename(self._options.work / "checkpoint.pt")

    def _check(self, elapsed_s: float) -> None:
        """Save a checkpoint, export the averaged model, and log its word error on a few held-out clips."""
        self._save(elapsed_s)
        if self._rank != 0:
            return
        model = build_model(self._tokenizer).eval()
        averaged = {k.removeprefix("model."): v for k, v in self._average.items() if k.startswith("model.")}
        model.load_state_dict({k: v.float() for k, v in self._trainee.model.state_dict().items()} | averaged)
        model.tie_weights()
        processor = build_processor(self._tokenizer)
        held_out, listener = HeldOut(ENGLISH, speech_s=400), Listener(model, processor)
        if self._options.voices is not None:
            for name, held_out_voice in held_out_voices(self._options.voices, ENGLISH).items():
                clips = held_out_voice.speech(6, (2.0, 8.0))
                _log.info("  check %s: word error %.1f %%", name, 100 * word_error_rate(clips, listener.texts(clips)))
        for seconds, n_clips in zip(LENGTHS_S, (8, 6, 3, 2), strict=True):
            clips = held_out.speech(n_clips, seconds)
            texts = listener.texts(clips)
            _log.info(
                "  check %s s: word error %.1f %%  %r", seconds, 100 * word_error_rate(clips, texts), texts[0][:100]
            )
        quiet = listener.texts(held_out.not_speech(6))
        _log.info("  check not speech: %d of %d without words", sum(not text for text in quiet), len(quiet))
        export(model, processor, self._options.out)

    def _load(self) -> None:
        state = torch.load(self._options.work / "checkpoint.pt")
        with torch.no_grad():
            for name, parameter in self._learned().items():
                self._weights[name].copy_(state["weights"][name])
                parameter.copy_(state["weights"][name])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._average, self._step, self._earlier_s = state["average"], state["step"], state["elapsed_s"]
        self._rng.seed(self._options.seed + self._step + self._rank)  # different speech from the first run
        _log.info("resumed at step %d", self._step)


def train_one(rank: int, options: TrainingOptions) -> None:
    """Run process ``rank`` of the training."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    meeting_point = f"file://{options.work.resolve()}/meet"
    dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=options.processes)
    try:
        Trainer(rank, options).run()
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Read the command line; train, evaluate, or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="folder for the trained model")
    parser.add_argument("--minutes", type=float, default=206.0, help="time to train")
    parser.add_argument("--work", type=Path, default=Path("build/demo-train"), help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="one for each core")
    parser.add_argument("--check-minutes", type=float, default=8.0, help="how often the model is checked and exported")
    parser.add_argument(
        "--cooldown-minutes", type=float, default=10.0, help="how long the learning rate of a trained model falls"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --work")
    parser.add_argument("--from", type=Path, dest="start", metavar="DIR", help="start from an exported model")
    parser.add_argument("--whole", action="store_true", help="with --from: train the decoder too")
    parser.add_argument("--voices", type=Path, metavar="DIR", help="natural voices, as demo_voices.py wrote them")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute in")
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="print the table of a trained model")
    arguments = parser.parse_args()
    if arguments.out is not None:
        options = TrainingOptions(
            arguments.out,
            arguments.minutes,
            arguments.work,
            arguments.seed,
            arguments.processes,
            arguments.check_minutes,
            arguments.cooldown_minutes,
            arguments.resume,
            arguments.start,
            arguments.whole,
            arguments.voices,
            getattr(torch, arguments.dtype),
        )
        options.work.mkdir(parents=True, exist_ok=True)
        (options.work / "meet").unlink(missing_ok=True)
        spawn(train_one, (options,), nprocs=options.processes)  # type: ignore[no-untyped-call]
    if (folder := arguments.evaluate or arguments.out) is None:
        parser.error("give --out to train, or --evaluate to measure a trained model")
    for line in table(folder, ENGLISH, getattr(torch, arguments.dtype), arguments.voices):
        print(line, flush=True)


if __name__ == "__main__":
    main()
