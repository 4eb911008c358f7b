"""What the rest of the framework needs from a model that predicts noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redi.lazy import Tensor
from redi.models.meter import CallMeter
from redi.samplers.state import Predict

Watch = Callable[[Tensor], None]


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts of one batch."""

    prompts: tuple[str, ...]
    states: Tensor  # (B, T, D)
    #: whatever else a network is told about each prompt, such as a pooled text (B, P)
    others: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Tensor) -> Conditioning:
        """The prompts of some samples."""
        prompts = tuple(self.prompts[i] for i in rows.tolist())
        return Conditioning(prompts, self.states[rows], tuple(item[rows] for item in self.others))

    @property
    def embedding(self) -> Tensor:
        """One vector per prompt (B, D): the mean over token positions."""
        return self.states.float().mean(1)


class DiffusionModel(Protocol):
    """A conditional noise model with guidance, a decoder and an identity."""

    latent_shape: tuple[int, int, int]
    meter: CallMeter

    @property
    def scheduler_config(self) -> Mapping[str, Any]: ...

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts; the result of one prompt does not depend on the others."""
        ...

    def predictor(self, conditioning: Conditioning, watch: Watch | None = None) -> Predict:
        """The guided network output as a function of latents and timestep; counts its calls.

        `watch` is handed each call's guidance difference (B, C, H, W), the output with the prompt
        less that without it; never called where nothing is guided.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, H, W) to pictures (B, 3, H', W') in [-1, 1]."""
        ...

    def identity(self) -> dict[str, Any]:
        """What has to be equal for two runs to be comparable: content hash, guidance, precision."""
        ...
