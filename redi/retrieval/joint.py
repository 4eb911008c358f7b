"""Two keys at once: the latent at the key step and the prompt's embedding."""

from __future__ import annotations

import numpy as np

from redi.lazy import Tensor, torch
from redi.retrieval.partitions import Found
from redi.retrieval.search import ExactSearch


class JointSearch:
    """Exact search over `[latent / s_l, embedding / s_e]`.

    Each scale is the root mean squared distance of that part from its mean over the KB, so neither
    part rules by its units alone; a part that never varies is left out.
    """

    def __init__(self, latents: Tensor, embeddings: Tensor, partitions: np.ndarray) -> None:
        self.scales = [_spread(part) for part in (latents, embeddings)]
        self.search_keys = ExactSearch(self._joined(latents, embeddings), partitions)

    def search(
        self, latents: Tensor, embeddings: Tensor, partitions: list[int], neighbours: int
    ) -> Found:
        """Nearest entries of queries (B, ...) and (B, E); distances are in units of the scales."""
        return self.search_keys.search(self._joined(latents, embeddings), partitions, neighbours)

    def _joined(self, latents: Tensor, embeddings: Tensor) -> Tensor:
        parts = zip((latents, embeddings), self.scales, strict=True)
        return torch.cat([(part.cpu().float() / scale).flatten(1) for part, scale in parts], 1)


def _spread(rows: Tensor) -> float:
    rows = rows.double().flatten(1)
    spread = float((rows - rows.mean(0)).square().sum(1).mean().sqrt())
    return spread if spread > 0 else float("inf")
