"""Initial noises: one generator per sample, named by an id, under an explicit policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from redi.errors import UsageError, unknown
from redi.lazy import Tensor, torch

POLICIES = ("shared", "bank", "per_prompt")
_QUERY_OFFSET = 1 << 30  # per_prompt: no query shares an id with a KB entry
_OTHER_OFFSET = 1 << 31  # no noise that a policy hands out


@dataclass(frozen=True)
class NoisePolicy:
    """Which noise each trajectory starts from.

    `shared`: one noise for all (the paper). `bank`: `bank_size` noises; the KB is partitioned by
    noise and a query searches the partition of its own. `per_prompt`: all different (a control:
    retrieval across noises is expected to fail).
    """

    policy: str = "shared"
    bank_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise unknown(f"noise.policy={self.policy!r}", self.policy, POLICIES)
        if self.bank_size < 1:
            raise UsageError(f"noise.bank_size={self.bank_size} is too small: use at least 1")
        if self.bank_size > 1 and self.policy != "bank":
            raise UsageError(
                f"noise.bank_size={self.bank_size} does nothing with noise.policy={self.policy}: "
                "use noise.policy=bank"
            )

    def kb_id(self, index: int) -> int:
        """Noise id of KB entry `index`."""
        return {"shared": 0, "bank": index % self.bank_size}.get(self.policy, index)

    def query_id(self, index: int) -> int:
        """Noise id of query `index`."""
        if self.policy == "per_prompt":
            return _QUERY_OFFSET + index
        return self.kb_id(index)

    def other_id(self, index: int) -> int:
        """Noise id of the run that query `index` is compared with to see what a noise changes."""
        return _OTHER_OFFSET + index

    def partition(self, noise_id: int) -> int:
        """The part of the KB that a query with this noise searches."""
        return noise_id if self.policy == "bank" else 0

    def draw(self, ids: list[int], shape: tuple[int, int, int]) -> Tensor:
        """Unit normal noise (B, C, H, W), each sample from its own generator (CPU, any device)."""
        return torch.cat([torch.randn((1, *shape), generator=self.generator(i)) for i in ids])

    def generator(self, noise_id: int) -> torch.Generator:
        """The generator of one noise id, ready to hand to a diffusers pipeline."""
        # The CPU generator keeps only 32 bits of its seed, so both numbers are mixed first.
        mixed = np.random.SeedSequence([self.seed, noise_id]).generate_state(1)[0]
        return torch.Generator().manual_seed(int(mixed))
