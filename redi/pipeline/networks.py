"""The networks that a pipeline calls at every step: watched, counted, and left out when told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: attributes of pipelines whose modules run once or more at every step
_NAMES = ("unet", "transformer", "transformer_2", "controlnet")


class Networks:
    """What the networks of one pipeline call are told and say.

    While `skipping`, a network that was called before with inputs of the same shapes is not run:
    it says again what it said last, and whoever skips does not listen. So the pipeline's own loop
    goes through all its steps, and everything that it counts stays right.
    """

    def __init__(self, pipe: Any) -> None:
        found = {name: getattr(pipe, name, None) for name in _NAMES}
        self.modules = {n: m for n, m in found.items() if isinstance(m, nn.Module)}
        self.skipping = False
        #: rows that the denoiser has computed; a guided call computes two for each sample
        self.rows = 0
        #: mean over tokens of what the denoiser was told of each prompt (B, E), where it can be had
        self.embedding: Tensor | None = None
        self._said: list[Tensor] = []
        self._last: dict[Any, Any] = {}

    @contextmanager
    def watched(self) -> Iterator[Networks]:
        """Stand in the way of every network for the time of the block."""
        undo = [self._wrap(name, module) for name, module in self.modules.items()]
        try:
            yield self
        finally:
            for put_back in reversed(undo):
                put_back()
            self._last.clear()
            self._said.clear()

    def begin_step(self, skipping: bool) -> None:
        """Forget what was said in the step before."""
        self.skipping = skipping
        self._said.clear()

    def guidance(self, output: Tensor) -> Tensor | None:
        """The guidance difference behind a guided output (B, C, H, W); None: not to be seen.

        Either both halves came in one batch, without the prompt first, or in two calls, with the
        prompt first. It is believed only where the output lies on the line through both.
        """
        halves = self._halves(len(output), output.shape[1])
        if halves is None:
            return None
        without, within = (half.to(output) for half in halves)
        if within.shape != output.shape:
            return None
        difference = within - without
        rest = (output - without).double().flatten()
        line = difference.double().flatten()
        scale = (rest @ line) / (line @ line).clamp_min(1e-300)
        # rounding of the pipeline's own arithmetic, in its own precision
        allowed = 64 * torch.finfo(output.dtype).eps * float(scale.abs() + 1)
        size = torch.maximum(rest.norm(), line.norm())
        return difference if float((rest - scale * line).norm()) <= allowed * size else None

    def _halves(self, samples: int, channels: int) -> tuple[Tensor, Tensor] | None:
        said = [part[:, :channels] for part in self._said]  # some networks also learn a variance
        if len(said) == 1 and len(said[0]) == 2 * samples:
            without, within = said[0].chunk(2)
            return without, within
        if len(said) == 2 and len(said[0]) == len(said[1]) == samples:
            return said[1], said[0]
        return None

    def _wrap(self, name: str, module: nn.Module) -> Callable[[], None]:
        """Put `_call` before whatever runs the module; returns how to take it away."""
        where = "forward" if module._compiled_call_impl is None else "_compiled_call_impl"
        had = where in vars(module)
        original = getattr(module, where)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, original, args, kwargs)

        object.__setattr__(module, where, forward)

        def put_back() -> None:
            if had:
                object.__setattr__(module, where, original)
            else:
                object.__delattr__(module, where)

        return put_back

    def _call(self, name: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        key = (name, _shapes((args, kwargs)))
        if self.skipping and key in self._last:
            return self._last[key]
        output = original(*args, **kwargs)
        self._last[key] = output
        if name != "controlnet" and (tensor := _first(output)) is not None:
            self.rows += len(tensor)
            self._said.append(tensor)
            self._listen(kwargs)
        return output

    def _listen(self, kwargs: dict[str, Any]) -> None:
        told = kwargs.get("encoder_hidden_states")
        if self.embedding is None and isinstance(told, Tensor) and told.ndim == 3:
            self.embedding = told.float().mean(1)  # (B or 2 B, E), the prompts last


def _first(output: Any) -> Tensor | None:
    found = output if isinstance(output, Tensor) else output[0]
    return found if isinstance(found, Tensor) and found.ndim > 1 else None


def _shapes(thing: Any) -> Any:
    """Shapes of all tensors in arguments, as something that can be looked up."""
    if isinstance(thing, Tensor):
        return tuple(thing.shape)
    if isinstance(thing, (list, tuple)):
        return tuple(_shapes(item) for item in thing)
    if isinstance(thing, dict):
        return tuple((key, _shapes(value)) for key, value in thing.items())
    return None
