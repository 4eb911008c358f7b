"""Which features work on which pipeline with redi enabled: the checks behind redi/SUPPORT.md.

    python tests/support.py

runs every check and writes the table; `test_support.py` runs the same checks and compares.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_pipelines import ARGUMENTS, PIPELINES, build

import redi
from redi.errors import UsageError

STEPS, KEY, VALUE = 4, 1, 2
PAGE = Path(__file__).parents[1] / "redi" / "SUPPORT.md"
Change = Callable[[Any, dict[str, Any]], None]


class NotApplicable(Exception):
    """The pipeline itself has no such feature."""


def nothing(pipe: Any, call: dict[str, Any]) -> None:
    """The pipeline as it is."""


def guidance(pipe: Any, call: dict[str, Any]) -> None:
    _needs(pipe, "guidance_scale")
    call["guidance_scale"] = 3.0


def negative_prompt(pipe: Any, call: dict[str, Any]) -> None:
    _needs(pipe, "negative_prompt")
    call["negative_prompt"] = "blue"
    if "true_cfg_scale" in _parameters(pipe):
        call["true_cfg_scale"] = 2.0


def several_images(pipe: Any, call: dict[str, Any]) -> None:
    if "num_videos_per_prompt" in _parameters(pipe):
        call["num_videos_per_prompt"] = 2
        return
    _needs(pipe, "num_images_per_prompt")
    call["num_images_per_prompt"] = 2


def bfloat16(pipe: Any, call: dict[str, Any]) -> None:
    pipe.to(torch.bfloat16)


def float16(pipe: Any, call: dict[str, Any]) -> None:
    pipe.to(torch.float16)


def compiled(pipe: Any, call: dict[str, Any]) -> None:
    """With the eager backend: what matters here is the wrapped module, not the code it makes."""
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    setattr(pipe, name, torch.compile(getattr(pipe, name), backend="eager"))


def attention_slicing(pipe: Any, call: dict[str, Any]) -> None:
    if "ip_adapter_image_embeds" in call:
        raise NotApplicable("slicing takes away the processors that an IP-Adapter needs")
    pipe.enable_attention_slicing()


def model_offload(pipe: Any, call: dict[str, Any]) -> None:
    """Whole models by turns; the CPU stands in for the accelerator."""
    pipe.enable_model_cpu_offload(device="cpu")


def lora(pipe: Any, call: dict[str, Any]) -> None:
    from peft import LoraConfig

    network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    if not hasattr(network, "add_adapter"):
        raise NotApplicable("add_adapter")
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))


#: packages that a feature of diffusers itself needs
NEEDS = {
    "CPU offload of whole models": "accelerate",
    "LoRA loaded": "peft",
}
FEATURES: dict[str, Change] = {
    "plain": nothing,
    "guidance": guidance,
    "negative prompt": negative_prompt,
    "several images per prompt": several_images,
    "bfloat16": bfloat16,
    "float16": float16,
    "torch.compile": compiled,
    "attention slicing": attention_slicing,
    "CPU offload of whole models": model_offload,
    "LoRA loaded": lora,
}


def check(name: str, feature: str) -> str:
    """`yes`, `no such option` or `refused`; raises where redi would be wrong without saying so."""
    pipe = build(name)
    call = {"num_inference_steps": STEPS, "output_type": "pt", **ARGUMENTS.get(name, {})}
    if "DDPM" not in name:
        call["output_type"] = "latent"
    try:
        FEATURES[feature](pipe, call)
    except NotApplicable:
        return "no such option"
    several = next((key for key in call if key.endswith("s_per_prompt")), None)
    copies = 1 if several is None else call.pop(several)
    with tempfile.TemporaryDirectory() as folder:
        options = {"key_step": KEY, "value_steps": [VALUE], "store_history": True}
        options["progress"] = False
        try:
            kb = redi.record(pipe, ["a red fox"], Path(folder) / "kb", **options, **call)
            query = {"prompt": "a red fox"} if "prompt" in _parameters(pipe) else {}
            if several is not None:
                query[several] = copies
            images = []
            for value in (None, VALUE):
                noise = redi.generators(kb, copies)
                if value is not None:
                    redi.enable(pipe, kb, value_step=value, resume="retrieved")
                images.append(torch.as_tensor(pipe(**query, **call, generator=noise)[0]))
                redi.disable(pipe)
        except UsageError as error:
            return f"refused: {error}"
    found = redi.summary(pipe)
    saved = copies * (VALUE - KEY)
    if (found.hits, found.network_calls_saved) != (copies, saved):
        raise AssertionError(f"{name}, {feature}: {found}")
    plain, jumped = (image.double() for image in images)
    gap = float((plain - jumped).abs().max() / plain.abs().max())
    # a batch of another size than the recorded one may round differently
    if gap > (0.0 if copies == 1 else 1e-4):
        raise AssertionError(f"{name}, {feature}: own trajectory is off by {gap:.1e}")
    return "yes"


def page(results: dict[str, dict[str, str]]) -> str:
    """The support table as Markdown."""
    lines = [
        "# What works with `redi.enable` and `redi.record`",
        "",
        "Each cell is a test: the pipeline, small and with random weights, records a trajectory "
        "with the feature on, jumps along it, and must return its plain picture bit for bit "
        "(several images: to rounding) with the network calls that the jump saves. "
        "Made by `python tests/support.py`.",
        "",
        "| pipeline | " + " | ".join(FEATURES) + " |",
        "| --- |" + " --- |" * len(FEATURES),
    ]
    lines += [f"| {n} | " + " | ".join(r[f] for f in FEATURES) + " |" for n, r in results.items()]
    return "\n".join([*lines, "", NOTES])


NOTES = """\
Refused with a reason, each covered by a test in `tests/test_pipeline.py`: stochastic schedulers
(ancestral, SDE, DDPM, LCM) and `eta > 0`; calls that differ from the recording (model, dtype,
scheduler, steps, guidance, negative prompt, size); a value step inside a group of single-step
DPM-Solver. Calls that start inside the schedule (image to image and inpainting with a strength
below 1) and calls that run a part of it (`denoising_end`) are refused when they are made.

Pictures that a call is told (ControlNet, IP-Adapter, image to image, inpainting) are part of a KB's
setting: a KB serves calls with the same picture, and another one is refused by name
(`tests/test_guided.py`). Attention slicing of diffusers takes away an IP-Adapter's processors, with
or without redi. Videos are latents with frames; retrieval-corrected sampling is refused for them.
Wan of diffusers 0.36 needs the package ftfy.

CPU offload of whole models is tested with the CPU in the place of the accelerator. Weights that are
offloaded layer by layer (`enable_sequential_cpu_offload`) are hashed where they are kept and
`redi.enable` takes the pipeline, but no run of it was tested: that needs an accelerator.

After a jump the pipeline's loop still goes through every step, and its networks (UNet or
transformer, ControlNet) are skipped: callbacks and windows over steps (`control_guidance_end`,
skipped layers of Stable Diffusion 3) are exact, which `tests/test_front_ends.py` checks. In a batch
where one sample jumps and another does not, the network computes both until they meet;
`Summary.network_rows` counts what was computed, `Summary.network_calls` what was needed. One
pipeline object serves one thread.

A KB fits the model that it was recorded with: weights, configuration and tokenizer of every part,
adapters with their scales, attention processors, FreeU, hooks and patched blocks. All of it is
compared again in every call, and a refusal names what differs. A change of a few single weights
through a tensor's `.data` can go unnoticed, and so can what hooks and callbacks keep to themselves.

The framework's own loop (`redi model=...`) runs Stable Diffusion 1.x and 2.x, SDXL, Stable
Diffusion 3 and Flux; a plain run is the unmodified pipeline bit for bit (`tests/test_families.py`).
It keeps Flux latents as pictures (C, H, W) where the pipeline keeps tokens, so for Flux a KB serves
the one that made it. SDXL is told that nothing was cropped and that the original size is the
picture's; Flux runs without a second, negative pass (`true_cfg_scale`).
"""


def _parameters(pipe: Any) -> Any:
    return inspect.signature(type(pipe).__call__).parameters


def _needs(pipe: Any, name: str) -> None:
    if name not in _parameters(pipe):
        raise NotApplicable(name)


if __name__ == "__main__":
    found = {name: {feature: check(name, feature) for feature in FEATURES} for name in PIPELINES}
    PAGE.write_text(page(found))
    sys.stdout.write(page(found))
