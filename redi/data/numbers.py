"""Work items for a DataLoader: whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset


class Numbers(Dataset[int]):
    """Whole numbers as a data set; batches of them are int64 tensors."""

    def __init__(self, values: Sequence[int]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, offset: int) -> int:
        return self.values[offset]
