"""Text to tokens and back: the prompt of a chunk, and what the model wrote."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np
from tokenizers.decoders import DecodeStream

from daemon.decode import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import Qwen3ASRProcessor

# A list of more than about sixty names improves no word and is echoed more often. The limit also leaves room for
# audio and output in one slot.
MAX_HOTWORD_TOKENS: Final = 256
# System, user and assistant turns around the audio: 18 in the vocabulary of the released models.
MAX_FRAME_TOKENS: Final = 32
# Cached frames: one for each folder's settings, and for recordings with hotwords of their own.
_MAX_CACHED_FRAMES: Final = 64


@dataclass(frozen=True, slots=True)
class PromptFrame:
    """The tokens before and after the audio tokens."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def fill(self, audio_token: int, n_audio_tokens: int) -> NDArray[np.int64]:
        """Return the whole prompt, shape (n_prompt_tokens,)."""
        return np.array([*self.before, *[audio_token] * n_audio_tokens, *self.after], np.int64)


class PromptWriter:
    """The model's tokenizer and chat template. Thread-safe."""

    def __init__(self, processor: Qwen3ASRProcessor) -> None:
        self._processor = processor
        self.audio_token: int = processor.audio_token_id
        self._marks = tuple(token for token in processor.tokenizer.get_added_vocab() if token.startswith("<"))
        self._lock = Lock()  # tokenizers are not thread-safe; it guards the frames too
        self._frames: OrderedDict[tuple[str | None, tuple[str, ...]], PromptFrame] = OrderedDict()

    def fit_hotwords(self, hotwords: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """Return the leading hotwords that fit into MAX_HOTWORD_TOKENS, and how many were left out.

        A hotword that contains one of the prompt's special tokens, such as "<|im_end|>", is left out too.
        """
        kept: list[str] = []
        for hotword in hotwords:
            word = " ".join(hotword.split())
            if not word or any(mark in word for mark in self._marks):
                continue
            with self._lock:
                n_tokens = len(self._processor.tokenizer.encode(_to_context([*kept, word]), add_special_tokens=False))
            if n_tokens > MAX_HOTWORD_TOKENS:
                break
            kept.append(word)
        return tuple(kept), len(hotwords) - len(kept)

    def frame(self, language: str | None, hotwords: tuple[str, ...]) -> PromptFrame:
        """Return the prompt around the audio, as the model's own template writes it.

        Args:
            language: the language to write, or None.
            hotwords: as returned by `fit_hotwords`.

        Raises:
            ValueError: the model does not know the language.
        """
        with self._lock:
            frame = self._frames.get((language, hotwords))
            if frame is None:
                frame = self._frames[language, hotwords] = self._build_frame(language, hotwords)
                if len(self._frames) > _MAX_CACHED_FRAMES:
                    self._frames.popitem(last=False)
        return frame

    def decode(self, tokens: Sequence[int]) -> list[str]:
        """Return the text that each token adds, special tokens included.

        A character that several tokens make together is in the part of the last of them; those before have "". A
        single part means that the text cannot be assigned to tokens.
        """
        if not tokens:
            return []
        stream = DecodeStream(skip_special_tokens=False)
        with self._lock:
            backend = self._processor.tokenizer.backend_tokenizer
            parts = [stream.step(backend, token) or "" for token in tokens]
            whole: str = self._processor.tokenizer.decode(list(tokens), skip_special_tokens=False)
        # What the stream holds back at the end is an incomplete character, which `decode` writes as U+FFFD.
        written = "".join(parts)
        return [*parts[:-1], parts[-1] + whole[len(written) :]] if whole.startswith(written) else [whole]

    def _build_frame(self, language: str | None, hotwords: Sequence[str]) -> PromptFrame:
        silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
        inputs = self._processor.apply_transcription_request(
            [silence], language=language, prompt=_to_context(hotwords) or None
        )
        tokens: list[int] = inputs["input_ids"][0].tolist()
        first = tokens.index(self.audio_token)
        n_audio_tokens = tokens.count(self.audio_token)
        return PromptFrame(tuple(tokens[:first]), tuple(tokens[first + n_audio_tokens :]))


def _to_context(hotwords: Sequence[str]) -> str:
    """Return hotwords as the context that the model reads before the audio."""
    return ", ".join(hotwords)
