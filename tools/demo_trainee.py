"""Training of the demo model: the expected answers, and the losses that teach it to listen."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from demo_model import ASR_TEXT, HIDDEN, UNKNOWN
from demo_speech import Vocabulary
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3ASRForConditionalGeneration

_ANSWER_MARK: Final = -100  # the label that cross-entropy leaves out
_MASKED: Final = -1e4  # added to attention scores; bf16 and float32 both turn it into zero weight
_FRAMES_PER_CHUNK: Final = 100
_CHUNKS_PER_WINDOW: Final = 8
_N_BEFORE: Final = 3  # words before the current one that the audio positions must predict
_Layer: TypeAlias = Any  # a module of transformers, whose parts carry no types


def audio_token_counts(n_frames: torch.Tensor) -> torch.Tensor:
    """Return the number of audio tokens (13 a second) for each number of mel frames."""
    rest = n_frames % _FRAMES_PER_CHUNK
    return (((rest - 1) // 2 + 1 - 1) // 2 + 1 - 1) // 2 + 1 + n_frames // _FRAMES_PER_CHUNK * 13


def _audio_position(sample: int) -> int:
    """Return the first audio position at or after a sample: 13 in each second, 80 ms apart."""
    second, rest = divmod(max(sample, 0), 16_000)
    return second * 13 + min(13, -(-rest // 1_280))


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of one example: before the audio, and after it, where the last ``n_answer`` are learned.

    ``words`` are the ids of what is spoken, word i between the samples ``times[i]``.
    """

    before: list[int]
    after: list[int]
    n_answer: int
    words: tuple[int, ...]
    times: tuple[tuple[int, int], ...]


def _spoken_now(conversations: Sequence[Conversation], counts: list[int]) -> torch.Tensor:
    """Return the id of the word at each audio position, 0 in pauses: (n_audio_tokens of all clips,)."""
    rows = []
    for conversation, n in zip(conversations, counts, strict=True):
        row = torch.zeros(n, dtype=torch.long)
        for word, (begin, end) in zip(conversation.words, conversation.times, strict=True):
            row[_audio_position(begin) : _audio_position(end)] = word
        rows.append(row)
    return torch.cat(rows)


def _spoken_before(conversations: Sequence[Conversation], counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the audio positions where a word is spoken, and the ids of the words before it, the nearest first.

    Shapes (n_positions,), counted over all clips, and (n_positions, 3); id 0 stands before the first word.
    """
    positions: list[int] = []
    before: list[tuple[int, ...]] = []
    start = 0
    for conversation, n in zip(conversations, counts, strict=True):
        padded = (*(0,) * _N_BEFORE, *conversation.words)
        for index, (begin, end) in enumerate(conversation.times):
            spoken = range(_audio_position(begin), min(_audio_position(end), n))
            positions += [start + i for i in spoken]
            before += [padded[index : index + _N_BEFORE][::-1]] * len(spoken)
        start += n
    return torch.tensor(positions, dtype=torch.long), torch.tensor(before, dtype=torch.long).view(-1, _N_BEFORE)


def _places(conversations: Sequence[Conversation], counts: list[int]) -> torch.Tensor:
    """Return where each word is said and where it is heard: (n_words, 4), as row, position, first and end of its sound.

    The position is the one whose output is the word; the sound is a range of positions of the same row.
    """
    places = []
    for row, (conversation, n) in enumerate(zip(conversations, counts, strict=True)):
        audio = len(conversation.before)
        first = audio + n + len(conversation.after) - len(conversation.words) - 2
        for index, (begin, end) in enumerate(conversation.times):
            heard = min(_audio_position(begin), n - 1)
            heard_end = max(heard + 1, min(_audio_position(end), n))
            places.append((row, first + index, audio + heard, audio + heard_end))
    return torch.tensor(places, dtype=torch.long).view(-1, 4)


class ConversationMaker:
    """Writes prompts and answers as token ids, with random contexts and sometimes a forced language."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, rng: random.Random) -> None:
        self._ids = {token: int(i) for token, i in tokenizer.get_vocab().items()}
        self._vocabulary, self._rng = vocabulary, rng

    def __call__(self, words: Sequence[str], times: tuple[tuple[int, int], ...]) -> Conversation:
        """Return the conversation whose answer is ``words``; none means no speech."""
        ids, rng = self._ids, self._rng
        spoken = tuple(ids[word] for word in words)
        turn, end, line = ids["<|im_start|>"], ids["<|im_end|>"], ids["\n"]
        system = [turn, ids["system"], line, *self._context(words), end, line]
        before = [*(system if rng.random() < 0.95 else []), turn, ids["user"], line, ids["<|audio_start|>"]]
        prompt = [ids["<|audio_end|>"], end, line, turn, ids["assistant"], line]
        forced = rng.random() < 0.4
        name = self._vocabulary.language if words or forced else "None"
        prefix = [ids["language"], ids[name], ids[ASR_TEXT]]
        answer = [*([] if forced else prefix), *spoken, end]
        return Conversation(before, [*prompt, *(prefix if forced else []), *answer], len(answer), spoken, times)

    def _context(self, words: Sequence[str]) -> list[int]:
        """Draw hotwords, spoken or not, known or not: the answer must follow the audio, not repeat them."""
        rng = self._rng
        if rng.random() < 0.5:
            return []
        context: list[int] = []
        for _ in range(rng.randint(1, 30)):
            kind = rng.random()
            if words and kind < 0.25:
                context.append(self._ids[rng.choice(words)])
            elif kind < 0.65:
                context.append(self._ids[rng.choice(self._vocabulary.words)])
            else:
                context.append(self._ids[UNKNOWN])
        return context


class Trainee(nn.Module):
    """The model with three linear layers that only training needs: they name words at audio positions.

    Without that help the decoder does not begin to listen (word error 75 % after 2,000 steps in a trial). One reads the
    encoder and says which word is being spoken, as espeak-ng tells when each begins: CTC alone, which has to find that
    out, stayed at guessing for 400 steps. The other (CTC) reads the decoder half way up, where words cut by the
    encoder's one-second windows have been put together again.

    The third, also half way up, names the words spoken before, and one attention head of the layer above is trained to
    look at the audio of the next word: without both, the model loses its place in a long text wherever a word repeats.

    Args:
        model: is trained whole, or its encoder alone where it ``is_trained`` already. New voices change the audio, not
            the language: a frozen decoder forgets nothing, and a step takes a quarter less time. Only the first of the
            helper layers is used then.
        is_whole: train the decoder of a trained model too. Without that it cannot follow what the encoder has learned
            to say differently, and espeak-ng is heard worse than before.
    """

    def __init__(
        self, model: Qwen3ASRForConditionalGeneration, *, is_trained: bool = False, is_whole: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self._is_trained, self._is_whole = is_trained, is_whole
        n_tokens = model.config.text_config.vocab_size
        self.spoken_now = nn.Linear(HIDDEN, n_tokens)
        self.spoken_so_far = nn.Linear(HIDDEN, n_tokens)
        self.spoken_before = nn.Linear(HIDDEN, _N_BEFORE * n_tokens)
        if is_trained:
            decoder = () if is_whole else (model.model.language_model, model.lm_head, self.spoken_before)
            for part in (*decoder, self.spoken_so_far):
                part.requires_grad_(requires_grad=False)

    def forward(
        self, features: torch.Tensor, n_frames: torch.Tensor, conversations: Sequence[Conversation]
    ) -> tuple[torch.Tensor, ...]:
        """Return the losses of the answers, of the word spoken now, of CTC, of the words before, and of the place.

        Of a trained model CTC is 0, and where only its encoder learns the words before and the place are 0 too.
        """
        counts = audio_token_counts(n_frames).tolist()
        audio = self._encode(features, n_frames)
        ids, labels = self._rows(conversations, counts)
        pad = self.model.config.audio_token_id
        embedded = self.model.get_input_embeddings()(ids)
        is_audio = ids == pad
        embedded = embedded.masked_scatter(is_audio[..., None], audio.to(embedded.dtype))
        # Padding is on the right here, so that causal attention never sees it and no mask is needed.
        last, halfway, looks = self._decode(embedded)
        is_answer = labels[:, 1:] != _ANSWER_MARK
        logits = self.model.lm_head(last[:, :-1][is_answer]).float()
        answer_loss = functional.cross_entropy(logits, labels[:, 1:][is_answer])
        now_loss = functional.cross_entropy(
            self.spoken_now(functional.gelu(audio)).float(), _spoken_now(conversations, counts)
        )
        if self._is_trained and not self._is_whole:
            return answer_loss, now_loss, *answer_loss.new_zeros(3)
        words = [conversation.words for conversation in conversations]
        heard = functional.rms_norm(halfway[is_audio], (HIDDEN,))
        return (
            answer_loss,
            now_loss,
            answer_loss.new_zeros(()) if self._is_trained else self._ctc(self.spoken_so_far(heard), counts, words),
            self._before(heard, conversations, counts),
            self._place(looks, _places(conversations, counts)),
        )

    def helper_loss(
        self, features: torch.Tensor, n_frames: torch.Tensor, conversations: Sequence[Conversation]
    ) -> torch.Tensor:
        """Return the loss of the word spoken now, which only the helper layer learns from."""
        with torch.no_grad():
            audio = functional.gelu(self._encode(features, n_frames))
        counts = audio_token_counts(n_frames).tolist()
        return functional.cross_entropy(self.spoken_now(audio).float(), _spoken_now(conversations, counts))

    def _before(self, heard: torch.Tensor, conversations: Sequence[Conversation], counts: list[int]) -> torch.Tensor:
        positions, before = _spoken_before(conversations, counts)
        if not len(positions):
            return heard.new_zeros((), dtype=torch.float32)
        return functional.cross_entropy(
            self.spoken_before(heard[positions]).float().unflatten(-1, (_N_BEFORE, -1)).flatten(0, 1), before.flatten()
        )

    @staticmethod
    def _place(looks: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return how much of the head's attention, (n_clips, n_tokens, n_tokens), misses the sound of the next word."""
        row, position, begin, end = places.unbind(1)
        column = torch.arange(looks.shape[-1])
        is_heard = (column >= begin[:, None]) & (column < end[:, None])
        found = (looks[row, position].float() * is_heard).sum(-1)
        return -(found + 1e-4).log().sum() / max(1, len(places))

    @staticmethod
    def _ctc(logits: torch.Tensor, counts: list[int], words: list[tuple[int, ...]]) -> torch.Tensor:
        log_p = nn.utils.rnn.pad_sequence(list(torch.split(logits.float().log_softmax(-1), counts)))
        targets = torch.tensor([i for row in words for i in row], dtype=torch.long)
        lengths = torch.tensor([len(row) for row in words])
        loss = functional.ctc_loss(log_p, targets, torch.tensor(counts), lengths, reduction="sum", zero_infinity=True)
        return loss / max(1, len(targets))

    def _rows(self, conversations: Sequence[Conversation], counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids and labels, both (n_clips, n_tokens), padded on the right."""
        pad, audio = self.model.config.pad_token_id, self.model.config.audio_token_id
        rows = [[*c.before, *[audio] * n, *c.after] for c, n in zip(conversations, counts, strict=True)]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), pad)
        labels = torch.full((len(rows), longest), _ANSWER_MARK)
        for index, (row, conversation) in enumerate(zip(rows, conversations, strict=True)):
            ids[index, : len(row)] = torch.tensor(row)
            start = len(row) - conversation.n_answer
            labels[index, start : len(row)] = ids[index, start : len(row)]
        return ids, labels

    def _encode(self, features: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
        """Run the encoder, its 8 s windows as the batch; packed as the stock one packs: (n_audio_tokens, hidden)."""
        tower = self.model.model.audio_tower
        batch, mel, frames = features.shape
        n_chunks = frames // _FRAMES_PER_CHUNK
        x = features.view(batch, mel, n_chunks, _FRAMES_PER_CHUNK).transpose(1, 2)
        x = x.reshape(batch * n_chunks, 1, mel, _FRAMES_PER_CHUNK)
        for conv in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
            x = functional.gelu(conv(x))
        x = tower.conv_out(x.permute(0, 3, 1, 2).flatten(2))
        steps = x.shape[1]
        x = x + tower.positional_embedding.positional_embedding[:steps]
        n_windows = -(-n_chunks // _CHUNKS_PER_WINDOW)
        missing = n_windows * _CHUNKS_PER_WINDOW - n_chunks if n_windows > 1 else 0
        per_window = (n_chunks + missing) // n_windows
        x = functional.pad(x.view(batch, n_chunks, steps, -1), (0, 0, 0, 0, 0, missing)).reshape(
            batch * n_windows, per_window * steps, -1
        )
        in_chunk = (n_frames[:, None] - torch.arange(n_chunks + missing) * _FRAMES_PER_CHUNK).clamp(
            0, _FRAMES_PER_CHUNK
        )
        lengths = tower._post_cnn_length(in_chunk)  # noqa: SLF001  # transformers has no public one
        valid = (torch.arange(steps) < lengths[..., None]).reshape(batch * n_windows, -1)
        hidden_keys = (~valid).to(x.dtype)[:, None, None, :] * _MASKED
        for layer in tower.layers:
            x = _encoder_layer(layer, x, hidden_keys, tower.config.encoder_attention_heads)
        projected: torch.Tensor = self.model.model.multi_modal_projector(tower.ln_post(x)[valid])
        return projected

    def _decode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the decoder over embeddings (n_clips, n_tokens, hidden).

        Returns its last hidden states, those half way up, and the first head's attention in the layer above those.
        """
        decoder = self.model.model.language_model
        turns = _rotations(x.shape[1], decoder.config.head_dim, decoder.config.rope_parameters["rope_theta"], x.dtype)
        future = torch.full((x.shape[1], x.shape[1]), _MASKED, dtype=x.dtype).triu(1)
        half = len(decoder.layers) // 2
        for layer in decoder.layers[:half]:
            x, _ = _decoder_layer(layer, x, turns, future)
        halfway = x
        x, looks = _decoder_layer(decoder.layers[half], x, turns, future)
        for layer in decoder.layers[half + 1 :]:
            x, _ = _decoder_layer(layer, x, turns, future)
        return _rms_norm(decoder.norm, x), halfway, looks


# The layers below compute what the classes of transformers compute, with fewer passes over memory: a training step
# takes 0.53 s instead of 0.74 s on one core. Only the training uses them.


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    looks = (torch.matmul(q, k.transpose(-1, -2)) + bias).softmax(-1)
    return torch.matmul(looks, v), looks


def _encoder_layer(layer: _Layer, x: torch.Tensor, hidden_keys: torch.Tensor, n_heads: int) -> torch.Tensor:
    normed, attention = layer.self_attn_layer_norm(x), layer.self_attn
    q, k, v = (
        p(normed).unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    heard, _ = _attend(q * attention.scaling, k, v, hidden_keys)
    x = x + attention.out_proj(heard.transpose(1, 2).flatten(2))
    out: torch.Tensor = x + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(x))))
    return out


def _rms_norm(norm: _Layer, x: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _rotations(n_tokens: int, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines of the rotary positions, both (n_tokens, head_dim)."""
    turns = torch.arange(n_tokens)[:, None] * theta ** (-torch.arange(0, head_dim, 2) / head_dim)
    both = torch.cat([turns, turns], -1)
    return both.cos().to(dtype), both.sin().to(dtype)


def _rotated(x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * turns[0] + torch.cat((-right, left), -1) * turns[1]


def _decoder_layer(
    layer: _Layer, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], future: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the layer's output and the attention of its first head, (n_clips, n_tokens, n_tokens)."""
    batch, n_tokens, _ = x.shape
    attention, normed = layer.self_attn, _rms_norm(layer.input_layernorm, x)
    heads = (batch, n_tokens, -1, attention.head_dim)
    q = (
        _rotated(_rms_norm(attention.q_norm, attention.q_proj(normed).view(heads)).transpose(1, 2), turns)
        * attention.scaling
    )
    k = _rotated(_rms_norm(attention.k_norm, attention.k_proj(normed).view(heads)).transpose(1, 2), turns)
    v = attention.v_proj(normed).view(heads).transpose(1, 2)
    # Query heads that share a key head are adjacent: an extra axis replaces copies of the keys.
    q = q.unflatten(1, (k.shape[1], -1))
    heard, looks = _attend(q, k[:, :, None], v[:, :, None], future)
    heard = heard.flatten(1, 2)
    x = x + attention.o_proj(heard.transpose(1, 2).reshape(batch, n_tokens, -1))
    normed = _rms_norm(layer.post_attention_layernorm, x)
    gate = functional.silu(layer.mlp.gate_proj(normed))
    return x + layer.mlp.down_proj(gate * layer.mlp.up_proj(normed)), looks[:, 0, 0]
