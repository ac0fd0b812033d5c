# SPDX-License-Identifier: Apache-2.0
"""Mixers against published layers: outputs and every gradient."""

from pathlib import Path

import numpy as np
import pytest
import torch
from seqlib_kernels import use_backend

from seqlib.mixers import mixer_class

GOLDEN = Path(__file__).parents[1] / "golden" / "lrnn"
FILES = {
    "layer_deltanet_neg": "delta_net",
    "layer_gated_deltanet_neg": "gated_delta_net",
    "layer_gated_deltaproduct_n2": "delta_product",
    "layer_mamba_neg": "mamba",
}
RENAMED = {
    "allow_neg_eigval": "negative_eigenvalues",
    "negative": "negative_eigenvalues",
    "use_output_gate": "use_gate",
}

# Relative RMS error, the worst of the output and all gradients. Measured: float64 2.2e-15
# (reference) and 2.7e-15 (cpu); float32 2.6e-6 and 3.2e-6, in the gradients of A_log and dt_bias,
# two numbers in which everything cancels.
TOLERANCE = {
    (torch.float64, "reference"): 1e-10,
    (torch.float64, "cpu"): 1e-10,
    (torch.float32, "reference"): 1e-5,
    (torch.float32, "cpu"): 1e-5,
}


@pytest.fixture(params=FILES)
def golden(request: pytest.FixtureRequest) -> tuple[str, dict[str, np.ndarray]]:
    with np.load(GOLDEN / f"{request.param}.npz") as arrays:
        found = {name.replace("dt_proj.bias", "dt_bias"): x for name, x in arrays.items()}
    found.setdefault("cfg_hidden_size", np.array(found["in_x"].shape[-1]))
    return FILES[request.param], found


def options(arrays: dict[str, np.ndarray]) -> dict:
    found = {k.removeprefix("cfg_"): v.item() for k, v in arrays.items() if k.startswith("cfg_")}
    return {RENAMED.get(name, name): value for name, value in found.items()}


@pytest.mark.parametrize(("dtype", "backend"), TOLERANCE)
def test_outputs_and_gradients(golden, dtype, backend):
    name, arrays = golden
    mixer = mixer_class(name)(**options(arrays)).to(dtype)
    tensors = {k: torch.from_numpy(v).to(dtype) for k, v in arrays.items() if v.dtype == np.float64}
    mixer.load_state_dict({k[2:]: v for k, v in tensors.items() if k.startswith("w_")})
    x = tensors["in_x"].requires_grad_()
    with use_backend(backend):
        y, _ = mixer(x)
        y.backward(tensors["cot_y"])
    got = {"y": y, "x": x.grad, **{n: p.grad for n, p in mixer.named_parameters()}}
    want = {
        "y": arrays["out_y"],
        "x": arrays["grad_x"],
        **{k[3:]: v for k, v in arrays.items() if k.startswith("gw_")},
    }
    assert got.keys() == want.keys()
    errors = {key: relative(got[key], want[key]) for key in want}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < TOLERANCE[dtype, backend], (worst, errors[worst])


def relative(got: torch.Tensor | None, want: np.ndarray) -> float:
    assert got is not None
    error = got.detach().double().numpy() - want
    return float(np.sqrt((error**2).mean() / (want**2).mean()))
