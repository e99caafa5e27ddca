"""Checks of indices, on a CPU only: on a GPU they would wait for the device."""

from __future__ import annotations

from torch import Tensor


def check_rows(name: str, index: Tensor, num_rows: int, owner: str) -> None:
    """Refuse numbers that are not rows of `owner`."""
    if index.device.type == "cpu" and ((index < 0) | (index >= num_rows)).any():
        raise RuntimeError(f"{name} must hold rows of {owner}, which has {num_rows}")


def check_rows_or_none(name: str, index: Tensor, num_rows: int, owner: str) -> None:
    """Refuse numbers that are not rows of `owner`; a negative number stands for no row."""
    if index.device.type == "cpu":
        check_rows(name, index[index >= 0], num_rows, owner)


def check_pointers(crow: Tensor, num_entries: int) -> None:
    """Refuse row pointers that lead outside the entries."""
    if crow.device.type != "cpu":
        return
    if crow[0] < 0 or crow[-1] > num_entries or (crow[1:] < crow[:-1]).any():
        raise RuntimeError(
            f"crow must rise from 0 or more to the number of entries, {num_entries}, or less"
        )
