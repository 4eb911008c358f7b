"""What decides a result is noticed by its content: of every part of a pipeline, of every call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    FirstBlockCacheConfig,
    StableDiffusionControlNetPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor2_0
from PIL import Image
from tiny_pipelines import ARGUMENTS, SIDE, build
from torch import nn

import redi
from redi.errors import UsageError
from redi.knowledge_base.differences import differences
from redi.methods import Query, Setup
from redi.methods.plain import Full
from redi.models.described import described
from redi.models.identity import Identity, call_identity, model_identity
from redi.models.text_to_image import TextToImageModel
from redi.samplers import build_sampler
from redi.verbs.reference import ReferenceRuns

STEPS = {"key_step": 1, "value_steps": [2], "num_inference_steps": 3, "output_type": "latent"}


@pytest.fixture
def sd() -> Any:
    return build("Stable Diffusion 1.x")


def changed(pipe: Any, change: Callable[[Any], Any]) -> list[str]:
    """Which fields a change is seen in."""
    before = model_identity(pipe)
    change(pipe)
    return [line.split(":")[0] for line in model_identity(pipe).differences(before.fields)]


class Doubled(AttnProcessor):
    """A processor of a user's own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().__call__(*args, **kwargs)


def doubled(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output


def patched(pipe: Any) -> None:
    own = pipe.unet.mid_block.forward
    pipe.unet.mid_block.forward = lambda *args, **kwargs: 2 * own(*args, **kwargs)


def merged(pipe: Any) -> None:
    """As adapters are fused: past the version counter."""
    pipe.unet.conv_in.weight.data += 0.01


def in_place(pipe: Any) -> None:
    with torch.no_grad():
        pipe.vae.decoder.conv_in.bias[0] += 1


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "FreeU": (lambda p: p.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4), "unet.freeu"),
    "attention processors": (lambda p: p.unet.set_attn_processor(Doubled()), "unet.processors"),
    "hooks": (lambda p: p.unet.conv_in.register_forward_hook(doubled), "unet.hooks"),
    "a patched block": (patched, "unet.forward"),
    "seamless tiling": (
        lambda p: setattr(p.unet.conv_in, "padding_mode", "circular"),
        "unet.padding",
    ),
    "weights, all": (merged, "unet.weights"),
    "weights, one": (in_place, "vae.weights"),
    "vae tiling": (lambda p: p.vae.enable_tiling(), "vae.tiling"),
    "configuration": (
        lambda p: p.vae.register_to_config(scaling_factor=0.5),
        "vae.settings",
    ),
    "text configuration": (
        lambda p: setattr(p.text_encoder.config, "hidden_act", "gelu"),
        "text_encoder.settings",
    ),
    "vocabulary": (lambda p: p.tokenizer.add_tokens(["<cat-toy>"]), "tokenizer.words"),
    "length of texts": (
        lambda p: setattr(p.tokenizer, "model_max_length", 5),
        "tokenizer.words",
    ),
    "one more network": (lambda p: setattr(p, "second", nn.Linear(2, 2)), "second"),
    "another encoding": (lambda p: setattr(p, "encode_prompt", doubled), "pipeline"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_a_pipeline_is_noticed_and_named(name: str, sd: Any) -> None:
    change, where = CHANGES[name]
    sd.tokenizer = copy.deepcopy(sd.tokenizer)  # other tests share it
    assert changed(sd, change) == [f"model.{where}"]


def test_what_only_rounds_or_looks_on_is_no_change(sd: Any) -> None:
    before = model_identity(sd)
    sd.enable_attention_slicing()
    sd.unet = torch.compile(sd.unet, backend="eager")
    sd.unet.to(torch.float64).to(torch.float32)
    assert model_identity(sd) == before
    sd.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    sd.disable_freeu()
    sd.unet.conv_in.register_forward_hook(doubled).remove()
    assert model_identity(sd) == before


def test_the_scale_of_an_image_adapter_and_a_block_cache_are_noticed(sd: Any) -> None:
    unet = sd.unet
    chosen = {}
    for name, processor in unet.attn_processors.items():
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
        added = IPAdapterAttnProcessor2_0(width, cross_attention_dim=16)
        chosen[name] = added if "attn2" in name else processor
    found = changed(sd, lambda _: unet.set_attn_processor(chosen))
    assert found == ["model.unet.weights", "model.unet.processors"]

    def half(_: Any) -> None:
        for name, processor in unet.attn_processors.items():
            if "attn2" in name:
                processor.scale = [0.5]

    assert changed(sd, half) == ["model.unet.processors"]
    flux = build("Flux")
    cache = FirstBlockCacheConfig(threshold=0.1)
    assert changed(flux, lambda p: p.transformer.enable_cache(cache)) == ["model.transformer.hooks"]
    flux.transformer.disable_cache()
    higher = FirstBlockCacheConfig(threshold=0.2)
    assert changed(flux, lambda p: p.transformer.enable_cache(higher)) == [
        "model.transformer.hooks"
    ]


def test_a_change_after_enabling_is_refused_at_the_next_call(sd: Any, tmp_path: Path) -> None:
    kb = redi.record(sd, ["a fox"], tmp_path / "kb", progress=False, **STEPS)
    call = {"num_inference_steps": 3, "output_type": "latent"}
    with redi.enable(sd, kb, value_step=2):
        sd("a fox", generator=redi.generators(kb), **call)
        for change, undo, words in (
            (merged, lambda p: p.unet.conv_in.weight.data.sub_(0.01), "model.unet.weights"),
            (CHANGES["FreeU"][0], lambda p: p.disable_freeu(), "model.unet.freeu"),
        ):
            change(sd)
            with pytest.raises(UsageError, match=words):
                sd("a fox", generator=redi.generators(kb), **call)
            undo(sd)
        sd.unet.load_state_dict(build("Stable Diffusion 1.x").unet.state_dict())
        sd("a fox", generator=redi.generators(kb), **call)


def test_pictures_and_weights_of_a_control_network_are_compared(tmp_path: Path, sd: Any) -> None:
    torch.manual_seed(1)
    control = ControlNetModel.from_unet(
        sd.unet, conditioning_embedding_out_channels=(4, 8), load_weights_from_unet=False
    )
    pipe = StableDiffusionControlNetPipeline(
        **sd.components, controlnet=control, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    picture = Image.fromarray(pixels)
    kb = redi.record(pipe, ["a fox"], tmp_path / "kb", image=picture, progress=False, **STEPS)

    def call(**changes: Any) -> None:
        start = redi.generators(kb)
        given = {"image": picture, "num_inference_steps": 3, "output_type": "latent", **changes}
        pipe("a cat", generator=start, **given)

    with redi.enable(pipe, kb, value_step=2):
        call()
        call(image=Image.fromarray(pixels.copy()), guidance_scale=np.float32(7.5))
        assert redi.summary(pipe).hits == 2
        for changes, words in (
            ({"image": Image.fromarray(255 - pixels)}, "image: KB has .image 16x16 RGB"),
            ({"image": torch.zeros(1, 3, 16, 16)}, "image: KB has"),
            ({"image": [torch.zeros(3, 16, 16)]}, "image: KB has"),
            ({"guidance_scale": np.float32(3)}, "guidance_scale: KB has 7.5, the pipeline 3.0"),
        ):
            with pytest.raises(UsageError, match=words):
                call(**changes)
        with torch.no_grad():
            control.conv_in.bias += 1
        with pytest.raises(UsageError, match="model.controlnet.weights"):
            call()
    with pytest.raises(UsageError, match='"StableDiffusionControlNetPipeline", the pipeline "Stab'):
        redi.enable(sd, kb, value_step=2)


def test_the_second_of_two_experts_and_where_it_takes_over_are_compared(sd: Any) -> None:
    def expert(seed: int) -> WanTransformer3DModel:
        torch.manual_seed(seed)
        return WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
            text_dim=8, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=8,
        )  # fmt: skip

    def pipeline(second: int, boundary: float = 0.5) -> WanPipeline:
        return WanPipeline(
            tokenizer=sd.tokenizer, text_encoder=sd.text_encoder, vae=None,
            scheduler=sd.scheduler, transformer=expert(1), transformer_2=expert(second),
            boundary_ratio=boundary,
        )  # fmt: skip

    own = model_identity(pipeline(2)).fields
    assert model_identity(pipeline(2)).fields == own
    (told,) = model_identity(pipeline(3)).differences(own)
    assert told.startswith("model.transformer_2.weights: ")
    (told,) = model_identity(pipeline(2, 0.6)).differences(own)
    assert told.startswith("model.pipeline.settings: ")

    def move(pipe: Any) -> None:
        with torch.no_grad():
            pipe.transformer_2.proj_out.bias += 1

    assert changed(pipeline(2), move) == ["model.transformer_2.weights"]


def test_values_are_described_by_content() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(2, 3)).astype(np.float32)
    tensor = torch.from_numpy(array)
    assert described(np.float32(0.1), "x") == described(0.1, "x") == 0.1
    assert described(torch.tensor(3), "x") == described(np.int64(3), "x") == 3
    assert described(array, "x") == described(tensor.T.contiguous().T, "x")
    assert described(tensor, "x") != described(tensor.reshape(3, 2), "x")
    assert described(tensor, "x") != described(tensor.double(), "x")
    assert described([tensor, tensor], "x") == described([tensor.clone()], "x")
    assert described([tensor, tensor + 1], "x") == [described(tensor + i, "x") for i in (0, 1)]
    images = rng.normal(size=(1, 3, 4, 4))
    assert described(np.repeat(images, 2, 0), "x") == described(images, "x")
    assert described(["a", "a"], "x") == "a" and described((0, 0), "x") == [0, 0]
    assert described({"scale": np.float64(0.5)}, "x") == {"scale": 0.5}
    assert described(float("inf"), "x") == "inf" and described({2, 1}, "x") == [1, 2]
    palette = Image.new("P", (2, 2))
    colours = described(palette, "x")
    palette.putpalette([255, 0, 0])
    assert described(palette, "x") != colours
    with pytest.raises(UsageError, match="hook is of type function, whose content cannot be"):
        described(doubled, "hook")


def test_sizes_of_one_number_of_tokens_and_blanks_are_told_apart(tmp_path: Path) -> None:
    flux, sizes = build("Flux"), ARGUMENTS["Flux"]
    options = {**STEPS, "progress": False, **sizes}
    kb = redi.record(flux, ["a fox"], tmp_path / "kb", **options)
    call = {"num_inference_steps": 3, "output_type": "latent", **sizes}
    call |= {"height": 2 * SIDE, "width": 8 * SIDE}
    words = "height: KB has 32, the pipeline 16; width: KB has 32, the pipeline 64"
    with redi.enable(flux, kb, value_step=2), pytest.raises(UsageError, match=words):
        flux("a fox", generator=redi.generators(kb), **call)
    xl, ways = build("SDXL"), []
    for given in (None, "", ["", ""], "blue"):
        arguments = {"negative_prompt": given}
        ways.append(call_identity(xl, negative, arguments).fields["negative_prompt"])
    assert len(set(ways)) == 3 and ways[0] == "" and ways[1] == ways[2]


def negative(negative_prompt: str | None = None) -> None:
    """A pipeline's call."""


def test_a_field_that_a_kb_does_not_name_was_the_usual() -> None:
    mine = Identity({"clip_skip": 2, "other": 1}, {"clip_skip": None})
    assert mine.differences({}) == ["clip_skip: KB has null, the pipeline 2"]
    assert not Identity({"clip_skip": None}, {"clip_skip": None}).differences({})
    assert (mine | Identity({"clip_skip": 2})).digest == mine.digest


def test_differences_show_where_long_values_part() -> None:
    theirs, mine = {"a": {"b": 1, "c": list(range(99))}}, {"a": {"b": 2, "c": list(range(98))}}
    first, second = differences(theirs, mine, "this run")
    assert first == "a.b: KB has 1, this run 2"
    assert "98]" in second and len(second) < 150


def test_a_reference_run_is_not_served_to_another_model(
    tiny_model: TextToImageModel, tmp_path: Path
) -> None:
    pipe = copy.deepcopy(tiny_model.pipeline)
    model = TextToImageModel(pipe, guidance_scale=2.5, batch_size=4)
    assert model.identity() == tiny_model.identity()
    full = Full().bind(Setup(build_sampler("ddim", model.scheduler_config, 2)))
    query = Query(torch.zeros(1, *model.latent_shape), (0,), (0,))
    runs = ReferenceRuns(tmp_path, model)
    runs.run(full, query, model.encode(["a fox"]))
    pipe.tokenizer.model_max_length = 5  # the same weights
    runs.run(full, query, model.encode(["a fox"]))
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    runs.run(full, query, model.encode(["a fox"]))
    assert (runs.computed, runs.read) == (3, 0)
