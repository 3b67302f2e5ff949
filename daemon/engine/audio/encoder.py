"""Log-mel frames to audio states: the model's encoder with its windows as the batch dimension.

Convolution never looks beyond 1 s and attention never beyond 8 s, so the windows of all pieces are rows of
one batch, packed without gaps between pieces. The stock encoder walks the windows in a Python loop and waits
for the device twice for each batch. Where every window lies is reckoned on the host, from lengths it knows.
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

    import numpy.typing as npt
    from transformers import Qwen3ASRForConditionalGeneration

    from daemon.engine.audio.mel import Mel


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Where everything lies; a block is what the convolution sees, 1 s.

    Attributes:
        blocks: of all blocks in order, the row among (n_pieces x blocks of the longest).
        places: of all blocks in order, the place among (n_windows x blocks of a window).
        is_state: whether a position holds a state, shape (n_windows, states of a window).
    """

    blocks: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    is_state: npt.NDArray[np.bool_]


class WindowedEncoder:
    """The audio tower and the projector behind it."""

    def __init__(
        self,
        model: Qwen3ASRForConditionalGeneration,
        conv_s: int,
        compiled: Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]] = lambda layer: layer,
    ) -> None:
        """Use the weights of the model.

        Args:
            model: in evaluation mode, on its device.
            conv_s: seconds of sound that go through the convolution at once: in the real model each
                takes 6 MB in bfloat16.
            compiled: what makes one layer's function faster.
        """
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
    def convolution_bytes(self) -> int:
        """Memory that the first convolution takes for a while: what comes out of it, and the activation of that."""
        weight = self._tower.conv2d1.weight
        n_values = weight.shape[0] * (self._tower.config.num_mel_bins // 2) * (self.block_frames // 2)
        n_bytes: int = 2 * weight.dtype.itemsize * n_values * self._conv_s
        return n_bytes

    def count_states(self, n_frames: int) -> int:
        """Return how many audio states a piece of so many mel frames becomes; each is one audio token."""
        n_whole, rest = divmod(n_frames, self.block_frames)
        return n_whole * self._block_states + _count_after_convolution(rest)

    def encode(self, mel: Mel, heartbeat: Callable[[], None]) -> torch.Tensor:
        """Return the audio states of all pieces, one piece behind the other.

        Args:
            mel: frames whose width is a multiple of `block_frames`.
            heartbeat: called at every layer.

        Returns:
            the model's type, shape (states of all pieces, d_text).
        """
        device, dtype = mel.frames.device, self._tower.conv2d1.weight.dtype
        plan = self._plan(mel.n_frames, mel.frames.shape[-1] // self.block_frames)
        blocks = torch.unflatten(mel.frames, -1, (-1, self.block_frames)).transpose(1, 2).flatten(0, 1)
        blocks = blocks[to_device(plan.blocks, device)].to(dtype)
        convolved = torch.cat([self._convolve(some, heartbeat) for some in torch.split(blocks[:, None], self._conv_s)])
        windows = convolved.new_zeros((plan.is_state.size // self._block_states, *convolved.shape[1:]))
        windows[to_device(plan.places, device)] = convolved
        hidden = windows.view(*plan.is_state.shape, -1)
        is_state = to_device(plan.is_state, device)[:, None, None, :]
        for layer in self._tower.layers:
            heartbeat()
            hidden = self._layer(layer, hidden, is_state, self._n_heads)
        states = hidden.flatten(0, 1)[to_device(np.flatnonzero(plan.is_state), device)]
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

    def _plan(self, n_frames: Sequence[int], width: int) -> _Plan:
        blocks, places, n_states = [], [], []
        n_windows = 0
        for piece, frames in enumerate(n_frames):
            n_blocks = -(-frames // self.block_frames)
            blocks.append(piece * width + np.arange(n_blocks))
            places.append(n_windows * self._window_blocks + np.arange(n_blocks))
            n_states.append(self.count_states(frames))
            n_windows += -(-n_blocks // self._window_blocks)
        is_state = np.zeros(n_windows * self._window_blocks * self._block_states, np.bool_)
        for place, n in zip(places, n_states, strict=True):
            first = place[0] * self._block_states
            is_state[first : first + n] = True
        return _Plan(np.concatenate(blocks), np.concatenate(places), is_state.reshape(n_windows, -1))


def _encode_layer(layer: Any, hidden: torch.Tensor, is_state: torch.Tensor, n_heads: int) -> torch.Tensor:  # noqa: ANN401  # a layer of transformers, which ships no types
    """Return what one layer makes of windows, shape (n_windows, n_positions, d_audio)."""
    attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
    query, key, value = (
        project(normed).unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=is_state)
    hidden = hidden + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
    if hidden.dtype == torch.float16:  # as the model's authors do
        limit = torch.finfo(hidden.dtype).max - 1000
        hidden = hidden.clamp(-limit, limit)
    return hidden


def _count_after_convolution(n_frames: int) -> int:
    """Return how many states are left of frames after three convolutions of stride 2."""
    for _ in range(3):
        n_frames = (n_frames + 1) // 2
    return n_frames
