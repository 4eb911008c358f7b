"""What root may do and others may not: write where permission is denied."""

from __future__ import annotations

import ctypes
import os

_VERSION, _DAC_OVERRIDE = 0x20080522, 1 << 1  # of linux/capability.h


def override(allowed: bool) -> None:
    """Whether this process may write in folders that deny it; only root ever may."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    effective, permitted = sets[0], sets[1]
    sets[0] = effective | (permitted & _DAC_OVERRIDE) if allowed else effective & ~_DAC_OVERRIDE
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
