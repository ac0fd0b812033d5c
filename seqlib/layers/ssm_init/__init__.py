# SPDX-License-Identifier: Apache-2.0
"""What diagonal state-space layers start from. Everything is computed in float64 on the CPU."""

from .dplr import dplr_kernel
from .hippo import hippo, low_rank, normal
from .modes import Modes, legs_eig, legs_modes
from .optimise import optimise
from .ptd import PTD, ginibre, perturbed, ptd_init
from .s4d import s4d, s4d_copies
from .s5 import s5_init
from .steps import inverse_exp, inverse_softplus, log_uniform
from .transfer import (
    frequencies,
    last_spike,
    legs_states,
    modal_states,
    phi,
    transfer_diagonal,
    transfer_hippo,
    transfer_modes,
    worst_deviation,
)

__all__ = [
    "PTD",
    "Modes",
    "dplr_kernel",
    "frequencies",
    "ginibre",
    "hippo",
    "inverse_exp",
    "inverse_softplus",
    "last_spike",
    "legs_eig",
    "legs_modes",
    "legs_states",
    "log_uniform",
    "low_rank",
    "modal_states",
    "normal",
    "optimise",
    "perturbed",
    "phi",
    "ptd_init",
    "s4d",
    "s4d_copies",
    "s5_init",
    "transfer_diagonal",
    "transfer_hippo",
    "transfer_modes",
    "worst_deviation",
]
