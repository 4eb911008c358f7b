"""A diffusers text-to-image pipeline as a noise model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.models.base import Conditioning, Watch
from redi.models.families import family_called, family_of
from redi.models.identity import model_identity
from redi.models.meter import CallMeter
from redi.models.network import ways
from redi.reading import read_json
from redi.samplers.state import Predict


class TextToImageModel:
    """A text-to-image pipeline of a known family with classifier-free guidance.

    Every network runs on batches of exactly `batch_size` rows, the last one padded. A kernel's
    rounding may depend on the shape it is given, so this is what makes a sample's result
    independent of the batch that it came in.

    Args:
        pipeline: of one of the classes in `FAMILIES`.
        guidance_scale: at most 1: the prompt alone.
        negative_prompt: what guidance moves away from; empty: what the pipeline does without one.
        batch_size: rows of every network call.
        size: side of the pictures in pixels; None: the model's own.
    """

    def __init__(
        self,
        pipeline: Any,
        guidance_scale: float,
        negative_prompt: str = "",
        batch_size: int = 16,
        size: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"model.batch_size={batch_size} is too small: use at least 1")
        self.pipeline, self.batch_size = pipeline, batch_size
        self.guidance_scale, self.negative_prompt = guidance_scale, negative_prompt
        self.family = family_of(pipeline, size, guidance_scale, negative_prompt)
        self.network = self.family.network
        self.latent_shape = self.family.latent_shape
        self.scheduler_config = self.family.scheduler_config
        self.device = self.network.device
        self.meter = CallMeter(self.device)

    @property
    def guided(self) -> bool:
        """Whether each call also evaluates the negative prompt."""
        return self.family.guided

    @property
    def embedding_size(self) -> int:
        """Entries of `Conditioning.embedding` per prompt."""
        return self.family.embedding_size

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        parts = []
        for start in range(0, len(prompts), self.batch_size):
            texts = list(prompts[start : start + self.batch_size])
            padded = texts + texts[-1:] * (self.batch_size - len(texts))
            parts.append([item[: len(texts)] for item in self.family.encode(padded)])
        states, *others = (torch.cat(items) for items in zip(*parts, strict=True))
        return Conditioning(tuple(prompts), states, tuple(others))

    @torch.inference_mode()
    def _negative(self) -> list[Tensor] | None:
        """The encoded negative prompt, one row of each tensor; None where nothing is guided."""
        if not self.guided:
            return None
        return [item[:1] for item in self.family.encode_negative(self.batch_size)]

    def predictor(self, conditioning: Conditioning, watch: Watch | None = None) -> Predict:
        encoded = (conditioning.states, *conditioning.others)
        negative = self._negative()

        def network(timestep: Tensor, latents: Tensor, *rows: Tensor) -> Tensor:
            if negative is None:
                return self.family.predict(latents, timestep, rows)
            both = [
                torch.cat([n.expand_as(row), row]) for n, row in zip(negative, rows, strict=True)
            ]
            without, within = self.family.predict(torch.cat([latents] * 2), timestep, both).chunk(2)
            guided = without + self.guidance_scale * (within - without)
            return guided if watch is None else torch.cat([guided, within - without], 1)

        @torch.inference_mode()
        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            if len(latents) != len(conditioning):
                raise ValueError(f"{len(latents)} latents for {len(conditioning)} prompts")
            with self.meter.measure(len(latents)):
                timestep = timestep.to(self.device)
                output = self._in_batches(
                    partial(network, timestep), latents.to(self.network.dtype), *encoded
                )
            if watch is None or negative is None:
                return output
            guided, difference = output.chunk(2, 1)
            watch(difference)
            return guided

        return predict

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        return self._in_batches(self.family.decode, latents).float().clamp(-1, 1)

    def identity(self) -> dict[str, Any]:
        return {
            **model_identity(self.pipeline).fields,
            "guidance_scale": self.guidance_scale,
            "negative_prompt": self.negative_prompt,
            "batch_size": self.batch_size,
            "latent_shape": list(self.latent_shape),
            **ways(self.network),
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


def load_pipeline(path: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """Load a pipeline directory as the class that it names; `UsageError` says what is wrong."""
    if not path.is_dir():
        raise UsageError(f"model.path={str(path)!r} is not a directory: name a pipeline's folder")
    index, where = path / "model_index.json", f"model.path={str(path)!r}"
    if not index.is_file():
        raise UsageError(
            f"{where} is not a diffusers pipeline (no model_index.json): "
            "name the folder that save_pretrained wrote"
        )
    listed = read_json(index, "the pipeline")
    name = listed.get("_class_name")
    family = family_called(name, where)
    absent = {p: None for p in family.optional_parts if not any(listed.get(p) or ())}
    try:
        pipeline = family.pipeline_class.from_pretrained(
            path, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=False, **absent
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(
            f"{where} cannot be loaded as a {name} ({reason}): "
            "check the folder or download it again"
        ) from error
    return pipeline.to(device)
