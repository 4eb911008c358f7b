"""A Gaussian mixture in latent space: a text-to-image model whose noise prediction is exact.

`p_0 = sum_m pi_m N(mu_m, s^2 I)`. Under the variance-preserving schedule its marginals stay
mixtures, so the noise prediction, its Lipschitz constant and, for one component, the whole
trajectory are known in closed form (redi/theory/PROOF.md, section 5). It stands in for a network
wherever a number must be checked against the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional

from redi.errors import UsageError
from redi.models.base import Conditioning, Watch
from redi.models.meter import CallMeter
from redi.samplers.state import Predict

NAMES = "abcdefghijklmnopqrstuvwxyz"

#: The schedule of Stable Diffusion v1; one table serves every sampler.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}


class MixtureModel:
    """The `DiffusionModel` of an isotropic Gaussian mixture with equally likely components.

    A prompt is a list of component names separated by blanks: `"a"` is one Gaussian, `"a c f"` a
    mixture of three, `""` the mixture of all, which is also what guidance moves away from. Order
    and repetition do not matter. The guided prediction is `(1 - w) eps(x, "") + w eps(x, prompt)`.

    Args:
        components: number of components, named `a`, `b`, ... (1 to 26).
        guidance_scale: `w`; 1 leaves the prompt's own prediction.
        spread: standard deviation of every coordinate of the means, in latent units.
        deviation: standard deviation `s` of each component, in latent units.
        seed: draws the means and the decoder.
        latent_shape: (C, H, W).
        dtype: arithmetic of the prediction.
        schedule: diffusers scheduler options; the default is Stable Diffusion's.
    """

    def __init__(
        self,
        components: int = 16,
        guidance_scale: float = 2.0,
        spread: float = 0.3,
        deviation: float = 0.5,
        seed: int = 0,
        latent_shape: tuple[int, int, int] = (4, 4, 4),
        dtype: torch.dtype = torch.float64,
        schedule: dict[str, Any] | None = None,
    ) -> None:
        if not 1 <= components <= len(NAMES):
            raise UsageError(
                f"model.components={components} is out of range: use 1 to {len(NAMES)}"
            )
        if deviation <= 0:
            raise UsageError(f"model.deviation={deviation} is not positive: use for example 0.5")
        self.guidance_scale, self.deviation, self.dtype = guidance_scale, deviation, dtype
        self.latent_shape = latent_shape
        self.scheduler_config = dict(SCHEDULE if schedule is None else schedule)
        self.device = torch.device("cpu")
        self.meter = CallMeter(self.device)
        generator = torch.Generator().manual_seed(seed)
        size = latent_shape[0] * latent_shape[1] * latent_shape[2]
        self.names = NAMES[:components]
        self.means = spread * torch.randn(components, size, generator=generator).double()  # (M, D)
        self.colours = torch.randn(3, latent_shape[0], generator=generator).double()  # (3, C)
        # diffusers' own float32 table, so that levels agree with the samplers to the last bit
        table = DDIMScheduler.from_config(self.scheduler_config).alphas_cumprod.double()
        self.alpha, self.sigma = table.sqrt(), (1 - table).sqrt()  # (T,)

    def prompts(self, most: int = 3) -> list[str]:
        """All different prompts of 1 to `most` components, in a fixed order."""
        sizes = range(1, most + 1)
        return [" ".join(chosen) for size in sizes for chosen in combinations(self.names, size)]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Component masks (B, 1, M) of 0 and 1; an unknown name is a `UsageError`."""
        masks = torch.stack([self._mask(prompt) for prompt in prompts])
        return Conditioning(tuple(prompts), masks[:, None].to(self.dtype))

    def predictor(self, conditioning: Conditioning, watch: Watch | None = None) -> Predict:
        mask = conditioning.states[:, 0] > 0  # (B, M)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            if len(latents) != len(mask):
                raise ValueError(f"{len(latents)} latents for {len(mask)} prompts")
            with self.meter.measure(len(latents)):
                level = self.level(float(timestep))
                within = self.noise(latents, *level, mask)
                if self.guidance_scale == 1:
                    return within
                without = self.noise(latents, *level, torch.ones_like(mask))
                if watch is not None:
                    watch(within - without)
                return without + self.guidance_scale * (within - without)

        return predict

    def level(self, timestep: float) -> tuple[Tensor, Tensor]:
        """alpha and sigma; between two timesteps, `log(sigma / alpha)` is linear."""
        below, share = int(timestep), timestep % 1
        if not share:
            return self.alpha[below], self.sigma[below]
        near, far = ((self.sigma[t] / self.alpha[t]).log() for t in (below, below + 1))
        rho = torch.lerp(near, far, share).exp()
        alpha = 1 / (1 + rho.square()).sqrt()
        return alpha, rho * alpha

    def noise(self, latents: Tensor, alpha: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
        """Exact unguided noise prediction `sigma (x - alpha sum_m r_m mu_m) / v`.

        latents (B, C, H, W), mask (B, M); the responsibilities `r_m` are the posterior
        probabilities of the admitted components. Equals `-sigma` times the score.
        """
        alpha, sigma, means = alpha.to(self.dtype), sigma.to(self.dtype), self.means.to(self.dtype)
        x = latents.to(self.dtype).flatten(1)  # (B, D)
        variance = (alpha * self.deviation) ** 2 + sigma**2
        logits = (alpha * x @ means.T - alpha**2 * means.square().sum(1) / 2) / variance  # (B, M)
        posterior = logits.masked_fill(~mask, -torch.inf).softmax(1)
        return (sigma * (x - alpha * posterior @ means) / variance).reshape(latents.shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Each latent pixel becomes an 8 x 8 patch of one colour, `tanh` of a fixed mixture."""
        mixed = torch.einsum("rc,bchw->brhw", self.colours.to(latents), latents)
        return functional.interpolate(mixed.tanh(), scale_factor=8, mode="nearest").float()

    @property
    def decoder_lipschitz(self) -> float:
        """Lipschitz constant of `decode` in Euclidean norms: `tanh` contracts, a patch repeats."""
        return 8 * float(torch.linalg.matrix_norm(self.colours, ord=2))

    def lipschitz(self, prompts: Sequence[str], timestep: int) -> Tensor:
        """Global Lipschitz constants (B,) of the guided noise prediction at a timestep.

        The Jacobian of `eps` is `sigma/v (I - alpha^2 Cov_r(mu) / v)`, and by Popoviciu's
        inequality the covariance of the means is at most `R^2`, `R` half their diameter, in every
        direction; so `eta = sigma/v max(1, alpha^2 R^2 / v - 1)`. Guidance adds the constants:
        `|1 - w| eta_all + w eta_prompt` (PROOF.md, proposition 6).
        """
        alpha, sigma = self.alpha[timestep], self.sigma[timestep]
        variance = (alpha * self.deviation) ** 2 + sigma**2

        def constant(mask: Tensor) -> Tensor:
            curvature = alpha**2 * self._half_diameter(mask) ** 2 / variance
            return sigma / variance * (curvature - 1).clamp(min=1)

        within = torch.stack([constant(self._mask(prompt)) for prompt in prompts])
        without = constant(self._mask(""))
        return abs(1 - self.guidance_scale) * without + abs(self.guidance_scale) * within

    def single_solution(
        self, name: str, latents: Tensor, start: tuple[Tensor, Tensor], stop: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Exact flow of one unguided component from level `start` to `stop` (alpha, sigma) pairs.

        `x' = alpha' mu + sqrt(v' / v) (x - alpha mu)`, latents (B, C, H, W) (PROOF.md, prop. 7).
        """
        if name not in tuple(self.names):
            raise UsageError(f"component={name!r} is unknown: use one of {', '.join(self.names)}")
        mean = self.means[self.names.index(name)].reshape(self.latent_shape)
        before, after = ((a * self.deviation) ** 2 + s**2 for a, s in (start, stop))
        return stop[0] * mean + (after / before).sqrt() * (latents.double() - start[0] * mean)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.means.numpy().data)
        digest.update(self.colours.numpy().data)
        digest.update(f"{self.deviation} {sorted(self.scheduler_config.items())}".encode())
        return {
            "model_hash": digest.hexdigest(),
            "model_dtype": str(self.dtype).removeprefix("torch."),
            "guidance_scale": self.guidance_scale,
            "latent_shape": list(self.latent_shape),
        }

    def _mask(self, prompt: str) -> Tensor:
        chosen = prompt.split() or list(self.names)
        for name in chosen:
            if name not in tuple(self.names):
                raise UsageError(
                    f"prompt={prompt!r} names an unknown component {name!r}: "
                    f"use names from {self.names[0]} to {self.names[-1]} separated by blanks"
                )
        return torch.tensor([name in chosen for name in self.names])

    def _half_diameter(self, mask: Tensor) -> Tensor:
        means = self.means[mask]
        return (means[:, None] - means[None]).norm(dim=-1).max() / 2
