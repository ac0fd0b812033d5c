# SPDX-License-Identifier: Apache-2.0
"""One small mixer of every kind and option that changes the data flow."""

import pytest
import torch

from seqlib.mixers import MIXERS
from seqlib.mixers.base import Mixer

D = 24
CASES: dict[str, tuple[str, dict]] = {
    "delta_net": ("delta_net", {"num_heads": 2}),
    "delta_net-no_conv-gate": (
        "delta_net",
        {"num_heads": 3, "expand_k": 0.5, "expand_v": 2.0, "use_short_conv": False}
        | {"use_gate": True},
    ),
    "delta_net-positive": ("delta_net", {"num_heads": 2, "negative_eigenvalues": False}),
    "gated_delta_net": ("gated_delta_net", {"num_heads": 2, "head_dim": 6, "num_v_heads": 4}),
    "delta_product-3": (
        "delta_product",
        {"num_heads": 2, "head_dim": 6, "num_householder": 3, "conv_size": 2},
    ),
    "delta_product-no_decay": (
        "delta_product",
        {"num_heads": 1, "head_dim": 8, "expand_v": 1.0}
        | {"use_forget_gate": False, "use_gate": False},
    ),
    "mamba": ("mamba", {"d_state": 4}),
    "mamba-biases-positive": (
        "mamba",
        {"d_state": 3, "expand": 1.5, "dt_rank": 5, "d_conv": 2, "use_bias": True}
        | {"conv_bias": False, "negative_eigenvalues": False},
    ),
    "mamba2": ("mamba2", {"d_state": 8, "head_dim": 8}),
    "mamba2-groups": (
        "mamba2",
        {"d_state": 4, "head_dim": 12, "n_groups": 2, "use_bias": True, "conv_bias": False},
    ),
    "s4": ("s4", {"d_state": 8}),
    "s4-lin-copies-channels": (
        "s4",
        {"d_state": 6, "init": "lin", "n_ssm": 3, "channels": 2, "discretization": "bilinear"}
        | {"dt_tie": False, "dt_transform": "exp", "tie_bc": True, "glu": False},
    ),
    "s4-dense": (
        "s4",
        {"mode": "dense", "d_state": 5, "init": "legs", "channels": 2}
        | {"discretization": "bilinear", "activation": "none"},
    ),
    "s4-structured": (
        "s4",
        {"mode": "structured", "d_state": 4, "init": "legs", "alpha": 1.0}
        | {"discretization": "bilinear"},
    ),
    "s5": ("s5", {"d_state": 16, "blocks": 2}),
    "s5-all-states-full_glu": (
        "s5",
        {"d_state": 8, "init": "legs", "conj_sym": False, "discretization": "bilinear"}
        | {"activation": "full_glu", "force_neg": True, "c_init": "complex_normal"},
    ),
    "fsmn": ("fsmn", {"fsmn_order": 3, "conv_kernel_size": 4}),
    "fsmn-plain": ("fsmn", {"memory": "plain", "inner_size": 7, "conv_kernel_size": 2}),
    "full_attention": ("full_attention", {"num_heads": 4, "num_kv_heads": 2, "qk_norm": True}),
}


@pytest.fixture(params=CASES)
def mixer(request: pytest.FixtureRequest) -> Mixer:
    """A mixer of width 24 in float64 with parameters of size 1."""
    torch.manual_seed(0)
    name, options = CASES[request.param]
    return MIXERS[name](D, **options).double()


@pytest.fixture
def x() -> torch.Tensor:
    """[3, 9, 24] in float64."""
    return torch.randn(3, 9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
