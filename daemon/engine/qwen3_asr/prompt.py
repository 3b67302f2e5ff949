"""Words to tokens and back: the prompt of a piece, and what the model wrote."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from daemon.engine.protocol import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import Qwen3ASRProcessor

# Beyond some sixty names a list helps no word and is echoed more often; the figure also keeps room
# for the sound and the answer in one slot.
MAX_HOTWORD_TOKENS: Final = 256
# System, user and assistant turns around the sound: 18 in the real vocabulary.
MAX_FRAME_TOKENS: Final = 32
# Frames that are remembered: one for each folder's settings, and for recordings with hotwords of their own.
_MAX_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class PromptFrame:
    """The tokens before and after those that stand for the sound."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def around(self, audio_token: int, n_audio_tokens: int) -> list[int]:
        """Return the whole prompt."""
        return [*self.before, *[audio_token] * n_audio_tokens, *self.after]

    def __len__(self) -> int:
        """Return the number of tokens besides the sound's."""
        return len(self.before) + len(self.after)


class PromptWriter:
    """The model's tokenizer and chat template. Any thread may call it."""

    def __init__(self, processor: Qwen3ASRProcessor) -> None:
        self._processor = processor
        self.audio_token: int = processor.audio_token_id
        self._marks = tuple(token for token in processor.tokenizer.get_added_vocab() if token.startswith("<"))
        self._frames: OrderedDict[tuple[str | None, tuple[str, ...]], PromptFrame] = OrderedDict()
        self._tokenizing = Lock()  # a tokenizer is not safe for two threads; it guards the frames too

    def fit_hotwords(self, hotwords: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit MAX_HOTWORD_TOKENS, and how many were cut.

        Also cut is a hotword which the prompt would read as one of its own marks, such as "<|im_end|>".
        """
        kept: list[str] = []
        for hotword in hotwords:
            word = " ".join(hotword.split())
            if not word or any(mark in word for mark in self._marks):
                continue
            with self._tokenizing:
                n_tokens = len(self._processor.tokenizer.encode(_to_context([*kept, word]), add_special_tokens=False))
            if n_tokens > MAX_HOTWORD_TOKENS:
                break
            kept.append(word)
        return tuple(kept), len(hotwords) - len(kept)

    def frame(self, language: str | None, hotwords: tuple[str, ...]) -> PromptFrame:
        """Return the prompt around a sound, as the model's own template writes it.

        Raises:
            ValueError: the model knows no such language.
        """
        with self._tokenizing:
            known = self._frames.get((language, hotwords))
        if known is not None:
            return known
        fitting, _ = self.fit_hotwords(hotwords)
        with self._tokenizing:
            frame = self._write(language, fitting)
            self._frames[language, hotwords] = frame
            if len(self._frames) > _MAX_REMEMBERED:
                self._frames.popitem(last=False)
        return frame

    def read(self, tokens: Sequence[int]) -> str:
        """Return what tokens spell, the model's own marks included."""
        with self._tokenizing:
            raw: str = self._processor.tokenizer.decode(list(tokens), skip_special_tokens=False)
        return raw

    def _write(self, language: str | None, hotwords: Sequence[str]) -> PromptFrame:
        silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
        inputs = self._processor.apply_transcription_request(
            [silence], language=language, prompt=_to_context(hotwords) or None
        )
        tokens: list[int] = inputs["input_ids"][0].tolist()
        first = tokens.index(self.audio_token)
        n_audio_tokens = tokens.count(self.audio_token)
        return PromptFrame(tuple(tokens[:first]), tuple(tokens[first + n_audio_tokens :]))


def _to_context(hotwords: Sequence[str]) -> str:
    """Return hotwords as the context which the model reads before the sound."""
    return ", ".join(hotwords)
