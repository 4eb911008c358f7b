"""Weights of published metrics: by path, by download on request, else one sentence without them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redi.lazy import Tensor, torch

CLIP = "openai/clip-vit-large-patch14"
#: models trained on preferences, and the one whose tokenizer and preprocessing they began with
PICK, HPS = "yuvalkirstain/PickScore_v1", "adams-story/HPSv2-hf"
BEGUN_WITH = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@dataclass(frozen=True)
class Weights:
    """What a metric needs: where it is expected below the folder of weights, how it is fetched."""

    metric: str
    name: str
    fetch: Callable[[Path], object]


def _fetch_inception(path: Path) -> None:
    from cleanfid.downloads_helper import inception_url

    torch.hub.download_url_to_file(inception_url, str(path), progress=False)


def _fetch_alexnet(path: Path) -> None:
    from torchvision.models import AlexNet_Weights

    torch.hub.download_url_to_file(AlexNet_Weights.DEFAULT.url, str(path), progress=False)


def _fetch_clip(model: str, parts: str, path: Path) -> None:
    """A CLIP, and the tokenizer and preprocessing of another of the same layout."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    CLIPModel.from_pretrained(model).save_pretrained(path)
    for part in (CLIPTokenizer, CLIPImageProcessor):
        part.from_pretrained(parts).save_pretrained(path)


WEIGHTS = {
    "inception": Weights("FID and KID", "inception-2015-12-05.pt", _fetch_inception),
    "lpips": Weights("LPIPS", "alexnet-owt-7be5be79.pth", _fetch_alexnet),
    "clip": Weights(
        "CLIP score (OpenAI) and CMMD", "clip-vit-large-patch14", partial(_fetch_clip, CLIP, CLIP)
    ),
    "pick": Weights("PickScore", "pickscore-v1", partial(_fetch_clip, PICK, BEGUN_WITH)),
    "hps": Weights("HPS v2", "hps-v2", partial(_fetch_clip, HPS, BEGUN_WITH)),
}


def locate(kind: str, folder: Path, download: bool) -> Path | str:
    """Where the weights of `WEIGHTS[kind]` are, or a sentence that says what to do about them."""
    wanted = WEIGHTS[kind]
    path = folder / wanted.name
    if path.exists():
        return path
    advice = f"put the weights at {str(path)!r} or use metrics.download=true"
    if download:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".partial-{path.name}")
            wanted.fetch(partial)
            return partial.rename(path)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            advice = f"the download failed ({reason}), so put the weights at {str(path)!r}"
    return f"{wanted.metric}: left out, {advice}"


def inception(path: Path) -> Callable[[Tensor], Tensor]:
    """clean-fid's Inception: pictures (B, 3, 299, 299) from 0 to 255 to features (B, 2048)."""
    layers = torch.jit.load(str(path), map_location="cpu").eval().layers
    return lambda images: layers.forward((images - 128) / 128).view(len(images), 2048)


def lpips(path: Path) -> torch.nn.Module:
    """LPIPS over AlexNet features (Zhang et al., 2018); its linear layers ship with torchmetrics.

    Called with two float pictures (B, 3, H, W) in [-1, 1]; returns (B, 1, 1, 1).
    """
    from torchmetrics.functional.image.lpips import _LPIPS
    from torchvision.models import alexnet

    backbone = alexnet(weights=None)
    backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network = _LPIPS(net="alex", pnet_rand=True)
    parts = [getattr(network.net, f"slice{i}") for i in range(1, 6)]
    layers = [layer for part in parts for layer in part]
    for mine, theirs in zip(layers, backbone.features, strict=False):
        mine.load_state_dict(theirs.state_dict())
    return network.eval()
