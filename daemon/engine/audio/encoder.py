"""Log-mel frames to audio states: the model's audio encoder, with its attention windows as the batch dimension.

Convolution never reaches beyond 1 s and attention never beyond 8 s, so the windows of all chunks are rows of one
batch, packed without gaps between chunks. The encoder of transformers walks the windows in a Python loop and
waits for the device twice per batch. Here the host computes the position of every window from the known lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from daemon.engine.audio.mel import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from transformers import Qwen3ASRForConditionalGeneration

    from daemon.engine.audio.mel import Mel


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Where everything is in the batch; a block is what the convolution sees, 1 s.

    Attributes:
        blocks: index of every block, in order, among (n_chunks x blocks of the longest chunk).
        positions: index of every block, in order, among (n_windows x blocks of a window).
        is_state: whether a position holds an audio state, shape (n_windows, states of a window).
    """

    blocks: NDArray[np.int64]
    positions: NDArray[np.int64]
    is_state: NDArray[np.bool_]


class WindowedEncoder:
    """The audio tower and the projector behind it.

    Args:
        model: in evaluation mode, on its device.
        conv_s: seconds of audio to convolve at once; in the 1.7B model each takes 6 MB in bfloat16.
        compiled: returns a faster version of one layer's function.
    """

    def __init__(
        self,
        model: Qwen3ASRForConditionalGeneration,
        conv_s: int,
        compiled: Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]] = lambda layer: layer,
    ) -> None:
        self._tower = model.model.audio_tower
        self._projector = model.model.multi_modal_projector
        self._conv_s = conv_s
        self._layer = compiled(_encode_layer)
        config = model.config.audio_config
        self._n_heads: int = config.encoder_attention_heads
        self.block_frames: int = 2 * config.n_window
        self._window_blocks: int = config.n_window_infer // self.block_frames
        self._block_states = _count_after_convolution(self.block_frames)

    @property
    def working_bytes(self) -> int:
        """Memory of the first convolution, the widest: its output and the activation of that."""
        weight = self._tower.conv2d1.weight
        n_values = weight.shape[0] * (self._tower.config.num_mel_bins // 2) * (self.block_frames // 2)
        n_bytes: int = 2 * weight.dtype.itemsize * n_values * self._conv_s
        return n_bytes

    def count_states(self, n_frames: int) -> int:
        """Return the number of audio states of a chunk with n_frames mel frames; each is one audio token."""
        n_whole, rest = divmod(n_frames, self.block_frames)
        return n_whole * self._block_states + _count_after_convolution(rest)

    def encode(self, mel: Mel, heartbeat: Callable[[], None]) -> torch.Tensor:
        """Return the audio states of all chunks, concatenated.

        Args:
            mel: frames whose width is a multiple of `block_frames`.
            heartbeat: called at every layer.

        Returns:
            The model's dtype, shape (states of all chunks, d_text).
        """
        device, dtype = mel.frames.device, self._tower.conv2d1.weight.dtype
        layout = self._lay_out(mel.n_frames, mel.frames.shape[-1] // self.block_frames)
        blocks = torch.unflatten(mel.frames, -1, (-1, self.block_frames)).transpose(1, 2).flatten(0, 1)
        blocks = blocks[to_device(layout.blocks, device)].to(dtype)
        convolved = torch.cat([self._convolve(part, heartbeat) for part in torch.split(blocks[:, None], self._conv_s)])
        windows = convolved.new_zeros((layout.is_state.size // self._block_states, *convolved.shape[1:]))
        windows[to_device(layout.positions, device)] = convolved
        hidden = windows.view(*layout.is_state.shape, -1)
        is_state = to_device(layout.is_state, device)[:, None, None, :]
        for layer in self._tower.layers:
            heartbeat()
            hidden = self._layer(layer, hidden, is_state, self._n_heads)
        states = hidden.flatten(0, 1)[to_device(np.flatnonzero(layout.is_state), device)]
        projected: torch.Tensor = self._projector(self._tower.ln_post(states))
        return projected

    def _convolve(self, blocks: torch.Tensor, heartbeat: Callable[[], None]) -> torch.Tensor:
        """Return the states of blocks, shape (n_blocks, states of a block, d_audio)."""
        heartbeat()
        for convolution in (self._tower.conv2d1, self._tower.conv2d2, self._tower.conv2d3):
            blocks = F.gelu(convolution(blocks))
        states = self._tower.conv_out(blocks.permute(0, 3, 1, 2).flatten(2))
        positions = self._tower.positional_embedding(states.shape[1])
        embedded: torch.Tensor = states + positions.to(states.dtype)
        return embedded

    def _lay_out(self, n_frames: Sequence[int], width: int) -> _Layout:
        blocks, positions, n_states = [], [], []
        n_windows = 0
        for index, frames in enumerate(n_frames):
            n_blocks = -(-frames // self.block_frames)
            blocks.append(index * width + np.arange(n_blocks))
            positions.append(n_windows * self._window_blocks + np.arange(n_blocks))
            n_states.append(self.count_states(frames))
            n_windows += -(-n_blocks // self._window_blocks)
        is_state = np.zeros(n_windows * self._window_blocks * self._block_states, np.bool_)
        for position, n in zip(positions, n_states, strict=True):
            first = position[0] * self._block_states
            is_state[first : first + n] = True
        return _Layout(np.concatenate(blocks), np.concatenate(positions), is_state.reshape(n_windows, -1))


def _encode_layer(layer: Any, hidden: torch.Tensor, is_state: torch.Tensor, n_heads: int) -> torch.Tensor:  # noqa: ANN401  # a layer of transformers, which ships no types
    """Return the output of one layer for windows, shape (n_windows, n_positions, d_audio)."""
    attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
    query, key, value = (
        project(normed).unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=is_state)
    hidden = hidden + attention.out_proj(attended.transpose(1, 2).flatten(2))
    hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
    if hidden.dtype == torch.float16:  # as in the authors' own encoder
        limit = torch.finfo(hidden.dtype).max - 1000
        hidden = hidden.clamp(-limit, limit)
    return hidden


def _count_after_convolution(n_frames: int) -> int:
    """Return how many states three convolutions of stride 2 leave of n_frames frames."""
    for _ in range(3):
        n_frames = (n_frames + 1) // 2
    return n_frames
