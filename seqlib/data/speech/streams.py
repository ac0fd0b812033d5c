# SPDX-License-Identifier: Apache-2.0
"""Random numbers named by what uses them, so that no worker, order or resume can shift them."""

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """An independent generator for `names`: stream(0, "window", epoch, index)."""
    key = repr((seed, *names)).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))
