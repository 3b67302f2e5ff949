"""Log-mel frames to audio states: the model's audio encoder, with its attention windows as the batch dimension.

Convolution never reaches beyond 1 s and attention never beyond 8 s, so the windows of all chunks are rows of one
batch, packed without gaps between chunks. The encoder of transformers walks the windows in a Python loop and
waits for the device twice per batch. Here the host computes the position of every window from the known lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from daemon.engine.audio.mel import to_device
from daemon.engine.compiling import uncompiled
from daemon.engine.packed_attention import choose_packed_attention
from daemon.engine.weights import join_weights_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from transformers import Qwen3ASRForConditionalGeneration

    from daemon.engine.audio.mel import Mel
    from daemon.engine.compiling import Compile
    from daemon.engine.packed_attention import Sequences

# The nine values that the first convolution reads at each place, and zeros: kernels like multiples of eight.
_PATCH_VALUES: Final = 16


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


class _Projections(NamedTuple):
    """Queries, keys and values of a layer, joined.

    Attributes:
        weight: shape (3 * d_audio, d_audio).
        bias: shape (3 * d_audio,).
    """

    weight: torch.Tensor
    bias: torch.Tensor


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
        compiled: Compile = uncompiled,
    ) -> None:
        self._tower = model.model.audio_tower
        self._projector = model.model.multi_modal_projector
        self._conv_s = conv_s
        self._projections = [_join(layer.self_attn) for layer in self._tower.layers]
        self._layer = compiled(_encode_layer)
        self._patch_weight = _to_patch_weight(self._tower.conv2d1)
        if self._patch_weight.device.type == "cuda":  # as the fast kernels read them
            for convolution in (self._tower.conv2d2, self._tower.conv2d3):
                convolution.to(memory_format=torch.channels_last)
        self._convolve_packed = compiled(_convolve_patches, is_packed=True)
        self._project_states, self._finish_states = (
            compiled(_project_states, is_packed=True),
            compiled(_finish_states, is_packed=True),
        )
        self._attend = choose_packed_attention(self._tower.conv2d1.weight.device, self._tower.conv2d1.weight.dtype)
        config = model.config.audio_config
        self._n_heads: int = config.encoder_attention_heads
        self.block_frames: int = 2 * config.n_window
        self._window_blocks: int = config.n_window_infer // self.block_frames
        self.block_states = _count_after_convolution(self.block_frames)

    @property
    def window_states(self) -> int:
        """Audio states of a window, which attend to one another."""
        return self._window_blocks * self.block_states

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
        return n_whole * self.block_states + _count_after_convolution(rest)

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
        windows = convolved.new_zeros((layout.is_state.size // self.block_states, *convolved.shape[1:]))
        windows[to_device(layout.positions, device)] = convolved
        hidden = windows.view(*layout.is_state.shape, -1)
        is_state = to_device(layout.is_state, device)[:, None, None, :]
        for layer, projections in zip(self._tower.layers, self._projections, strict=True):
            heartbeat()
            hidden = self._layer(layer, projections, hidden, is_state, self._n_heads)
        states = hidden.flatten(0, 1)[to_device(np.flatnonzero(layout.is_state), device)]
        projected: torch.Tensor = self._projector(self._tower.ln_post(states))
        return projected

    def encode_packed(self, blocks: torch.Tensor, sources: torch.Tensor, windows: Sequences) -> torch.Tensor:
        """Return the audio states of packed chunks, on the device alone.

        Args:
            blocks: mel frames, shape (n_blocks, n_mels, frames of a block).
            sources: the place of each audio state among those of all blocks, shape (n_states,).
            windows: which audio states attend to one another.

        Returns:
            The model's dtype, shape (n_states, d_text).
        """
        n_parts = -(-len(blocks) // self._conv_s)
        parts = blocks.to(self._tower.conv2d1.weight.dtype).tensor_split(n_parts)
        convolved = torch.cat([self._convolve_packed(self._tower, self._patch_weight, part) for part in parts])
        hidden = convolved.flatten(0, 1)[sources]
        for layer, projections in zip(self._tower.layers, self._projections, strict=True):
            query, key, value = self._project_states(layer, projections, hidden, self._n_heads)
            attended = self._attend(query, key, value, windows)
            hidden = self._finish_states(layer, hidden, attended.flatten(1))
        projected: torch.Tensor = self._projector(self._tower.ln_post(hidden))
        return projected

    def _convolve(self, blocks: torch.Tensor, heartbeat: Callable[[], None]) -> torch.Tensor:
        heartbeat()
        return _convolve(self._tower, blocks)

    def _lay_out(self, n_frames: Sequence[int], width: int) -> _Layout:
        blocks, positions, n_states = [], [], []
        n_windows = 0
        for index, frames in enumerate(n_frames):
            n_blocks = -(-frames // self.block_frames)
            blocks.append(index * width + np.arange(n_blocks))
            positions.append(n_windows * self._window_blocks + np.arange(n_blocks))
            n_states.append(self.count_states(frames))
            n_windows += -(-n_blocks // self._window_blocks)
        is_state = np.zeros(n_windows * self._window_blocks * self.block_states, np.bool_)
        for position, n in zip(positions, n_states, strict=True):
            first = position[0] * self.block_states
            is_state[first : first + n] = True
        return _Layout(np.concatenate(blocks), np.concatenate(positions), is_state.reshape(n_windows, -1))


def _convolve(tower: Any, blocks: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # of transformers, which ships no types
    """Return the states of blocks of shape (n_blocks, 1, n_mels, frames); shape (n_blocks, states, d_audio)."""
    return _finish_convolution(tower, F.gelu(tower.conv2d1(blocks)))


def _convolve_patches(tower: Any, weight: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # as above
    """Return the same for blocks of shape (n_blocks, n_mels, frames), faster on a GPU.

    The first convolution has one channel to read and hundreds to write. As a product of patches it writes them with
    the channels last, as the fast kernels of the next convolutions read them.
    """
    patches = F.pad(blocks, (1, 1, 1, 1)).unfold(1, 3, 2).unfold(2, 3, 2).flatten(-2)
    channels = F.linear(F.pad(patches, (0, weight.shape[1] - 9)), weight, tower.conv2d1.bias)
    return _finish_convolution(tower, F.gelu(channels).permute(0, 3, 1, 2))


def _to_patch_weight(convolution: Any) -> torch.Tensor:  # noqa: ANN401  # as above
    """Return the weight of the first convolution as a product with patches, shape (n_channels, _PATCH_VALUES)."""
    weight = convolution.weight.detach().flatten(1)
    return torch.nn.Parameter(F.pad(weight, (0, _PATCH_VALUES - weight.shape[1])), requires_grad=False)


def _finish_convolution(tower: Any, channels: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # as above
    """Return the states, given the output of the first convolution, shape (n_blocks, n_channels, n, n_frames)."""
    for convolution in (tower.conv2d2, tower.conv2d3):
        channels = F.gelu(convolution(channels))
    states = tower.conv_out(channels.permute(0, 3, 1, 2).flatten(2))
    embedded: torch.Tensor = states + tower.positional_embedding(states.shape[1]).to(states.dtype)
    return embedded


def _join(attention: Any) -> _Projections:  # noqa: ANN401  # as above
    projections: tuple[torch.nn.Linear, ...] = (attention.q_proj, attention.k_proj, attention.v_proj)
    bias = torch.cat([projection.bias.detach() for projection in projections])
    return _Projections(join_weights_of(projections), torch.nn.Parameter(bias, requires_grad=False))


def _encode_layer(
    layer: Any,  # noqa: ANN401  # as above
    projections: _Projections,
    hidden: torch.Tensor,
    is_state: torch.Tensor,
    n_heads: int,
) -> torch.Tensor:
    """Return the output of one layer for windows, shape (n_windows, n_positions, d_audio)."""
    query, key, value = (part.transpose(1, 2) for part in _project_states(layer, projections, hidden, n_heads))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=is_state)
    return _finish_states(layer, hidden, attended.transpose(1, 2).flatten(2))


def _project_states(
    layer: Any,  # noqa: ANN401  # as above
    projections: _Projections,
    hidden: torch.Tensor,
    n_heads: int,
) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values, each of shape (..., n_heads, head_dim)."""
    joined = F.linear(layer.self_attn_layer_norm(hidden), projections.weight, projections.bias)
    return torch.split(torch.unflatten(joined, -1, (3 * n_heads, -1)), n_heads, dim=-2)


def _finish_states(layer: Any, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # as above
    """Return the output of a layer, given what its heads have attended to, shape (..., d_audio)."""
    hidden = hidden + layer.self_attn.out_proj(attended)
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
