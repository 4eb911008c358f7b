"""Pipelines by their id on the Hugging Face hub: from the cache, the network, or not at all."""

from __future__ import annotations

from pathlib import Path

from redi.errors import UsageError

#: weights of a pipeline's parts; files beside model_index.json are the same in another form
_FILES = ["*.json", "*.txt", "*.model", "*/*.safetensors"]
_SKIPPED = ["safety_checker/*", "text_encoders/*", "vae_1_0/*", "*non_ema*", "*.fp16*.safetensors"]


def hub_folder(hub_id: str) -> Path:
    """The local folder of a hub id, downloaded where it is not in the cache.

    Raises:
        UsageError: neither in the cache nor to be had; says what to download and where to put it.
    """
    from huggingface_hub import snapshot_download

    for offline in (True, False):
        try:
            found = snapshot_download(
                hub_id,
                allow_patterns=_FILES,
                ignore_patterns=_SKIPPED,
                local_files_only=offline,
            )
        except (OSError, ValueError) as error:
            reason = type(error).__name__
            continue
        if (Path(found) / "model_index.json").is_file():
            return Path(found)
        reason = "no model_index.json"
    raise UsageError(
        f"model.hub_id={hub_id!r} is not in the local cache and cannot be downloaded ({reason}): "
        f"where there is a network run 'hf download {hub_id} --local-dir DIR', copy DIR here and "
        "set model.path=DIR"
    )
