"""A diffusers text-to-image pipeline as a noise model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor, nn

from redi.errors import UsageError
from redi.models.base import Conditioning, Watch
from redi.models.meter import CallMeter
from redi.samplers.state import Predict


class TextToImageModel:
    """Stable Diffusion v1 / v2 style pipelines with classifier-free guidance.

    Every network runs on batches of exactly `batch_size` rows, the last one padded. A kernel's
    rounding may depend on the shape it is given, so this is what makes a sample's result
    independent of the batch that it came in.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        guidance_scale: float,
        negative_prompt: str = "",
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"model.batch_size={batch_size} is too small: use at least 1")
        self.pipeline, self.batch_size = pipeline, batch_size
        self.guidance_scale, self.negative_prompt = guidance_scale, negative_prompt
        self.unet, self.vae = pipeline.unet.eval(), pipeline.vae.eval()
        self.text_encoder = pipeline.text_encoder.eval()
        size = self.unet.config.sample_size
        self.latent_shape = (self.unet.config.in_channels, size, size)
        self.scheduler_config = dict(pipeline.scheduler.config)
        self.device = self.unet.device
        self.meter = CallMeter(self.device)

    @property
    def guided(self) -> bool:
        """Whether each call also evaluates the negative prompt (the rule of diffusers)."""
        return self.guidance_scale > 1

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        tokenizer = self.pipeline.tokenizer
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)
        states = self._in_batches(lambda ids: self.text_encoder(ids)[0], tokens)
        return Conditioning(tuple(prompts), states)

    def predictor(self, conditioning: Conditioning, watch: Watch | None = None) -> Predict:
        states = conditioning.states
        negative = self.encode([self.negative_prompt]).states if self.guided else None

        def network(latents: Tensor, states: Tensor, timestep: Tensor) -> Tensor:
            if negative is None:
                return self.unet(latents, timestep, states).sample
            both = torch.cat([negative.expand_as(states), states])
            without, within = self.unet(torch.cat([latents] * 2), timestep, both).sample.chunk(2)
            guided = without + self.guidance_scale * (within - without)
            return guided if watch is None else torch.cat([guided, within - without], 1)

        @torch.inference_mode()
        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            if len(latents) != len(states):
                raise ValueError(f"{len(latents)} latents for {len(states)} prompts")
            with self.meter.measure(len(latents)):
                timestep = timestep.to(self.device)
                output = self._in_batches(
                    lambda x, s: network(x, s, timestep), latents.to(self.unet.dtype), states
                )
            if watch is None or negative is None:
                return output
            guided, difference = output.chunk(2, 1)
            watch(difference)
            return guided

        return predict

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        return self._in_batches(lambda z: self.vae.decode(z).sample, scaled).float().clamp(-1, 1)

    def identity(self) -> dict[str, Any]:
        return {
            "model_hash": content_hash(self.unet, self.text_encoder, self.vae),
            "model_dtype": str(self.unet.dtype).removeprefix("torch."),
            "guidance_scale": self.guidance_scale,
            "negative_prompt": self.negative_prompt,
            "batch_size": self.batch_size,
            "latent_shape": list(self.latent_shape),
        }

    def _in_batches(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Apply `function` to row-aligned inputs, `batch_size` rows at a time."""
        parts = []
        for start in range(0, len(inputs[0]), self.batch_size):
            chunk = [item[start : start + self.batch_size] for item in inputs]
            missing = self.batch_size - len(chunk[0])
            if missing:
                chunk = [torch.cat([c, c[-1:].expand(missing, *c.shape[1:])]) for c in chunk]
            parts.append(function(*chunk)[: self.batch_size - missing])
        return torch.cat(parts)


def content_hash(*modules: nn.Module) -> str:
    """SHA-256 over the names, types and values of all weights."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(raw.numpy().data)
    return digest.hexdigest()


def load_pipeline(path: Path, dtype: torch.dtype, device: torch.device) -> StableDiffusionPipeline:
    """Load a pipeline directory; a `UsageError` says what is wrong with it."""
    if not path.is_dir():
        raise UsageError(f"model.path={str(path)!r} is not a directory: name a pipeline's folder")
    if not (path / "model_index.json").is_file():
        raise UsageError(
            f"model.path={str(path)!r} is not a diffusers pipeline (no model_index.json): "
            "name the folder that save_pretrained wrote"
        )
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            path, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(
            f"model.path={str(path)!r} cannot be loaded as a Stable Diffusion pipeline "
            f"({reason}): check the folder or download it again"
        ) from error
    return pipeline.to(device)
