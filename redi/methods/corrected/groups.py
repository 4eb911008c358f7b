"""Trajectories that repeat one another: whoever leaves one out has to leave out all of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from redi.lazy import Tensor, torch


def groups_of(*columns: Sequence[Hashable]) -> Tensor:
    """Number of each row's group (K,): rows that agree in all columns, by first appearance.

    For trajectories the columns are prompt and noise id.
    """
    known: dict[tuple[Hashable, ...], int] = {}
    return torch.tensor(
        [known.setdefault(row, len(known)) for row in zip(*columns, strict=True)],
        dtype=torch.long,
    )


def all_different(count: int) -> Tensor:
    """Groups (K,) of rows of which none repeats another."""
    return torch.arange(count)


def renumbered(groups: Tensor) -> Tensor:
    """The same groups (K,), numbered from 0 by first appearance."""
    return groups_of(groups.tolist())


def members(groups: Tensor) -> list[Tensor]:
    """Rows of every group."""
    order = groups.argsort(stable=True)
    return list(order.split(groups.unique(return_counts=True)[1].tolist()))


def first_rows(groups: Tensor) -> Tensor:
    """One row of every group, in their order."""
    return torch.stack([rows[0] for rows in members(groups)])


def repeats(groups: Tensor) -> int:
    """Rows that repeat one before them."""
    return len(groups) - len(groups.unique())
