"""Knowledge bases by their id on the Hugging Face hub: `hf://owner/name`, or `...@revision`."""

from __future__ import annotations

import re
from pathlib import Path

from redi.errors import UsageError
from redi.knowledge_base.manifest import manifest_path
from redi.knowledge_base.reader import KnowledgeBase

HUB = "hf://"
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
#: what a KB consists of: data alone
_FILES = ["*.json", "*.parquet", "*.safetensors", "README.md"]


def opened(kb: str | Path | KnowledgeBase) -> KnowledgeBase:
    """A KB from its folder, from its id on the hub, or as it is."""
    return kb if isinstance(kb, KnowledgeBase) else KnowledgeBase(kb_folder(kb))


def kb_folder(kb: str | Path) -> Path:
    """A KB's folder; of one on the hub the newest that can be reached, else what was downloaded.

    Raises:
        UsageError: no id of the hub, or neither reached nor downloaded; says what to download.
    """
    if isinstance(kb, Path) or not kb.startswith(HUB):
        return Path(kb)
    if (found := _ID.fullmatch(kb.removeprefix(HUB))) is None:
        raise UsageError(f"{kb!r} is no id of the hub: write hf://owner/name, or ...@revision")
    name, revision = found.groups()
    from huggingface_hub import constants, snapshot_download

    # files of its own: the hub's cache holds links, which a KB does not follow
    folder = Path(constants.HF_HOME, "redi", kb.removeprefix(HUB).replace("/", "--"))
    try:
        snapshot_download(
            name,
            repo_type="dataset",
            revision=revision,
            allow_patterns=_FILES,
            local_dir=folder,
        )
        reason = f"it holds no {manifest_path(folder).name}"
    except (OSError, ValueError) as error:
        reason = type(error).__name__
    if not manifest_path(folder).is_file():
        raise UsageError(
            f"the KB {kb!r} cannot be had ({reason}): where there is a network run "
            f"'hf download {name} --repo-type dataset --local-dir DIR', copy DIR here and name it"
        )
    return folder
