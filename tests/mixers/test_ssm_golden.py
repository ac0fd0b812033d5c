# SPDX-License-Identifier: Apache-2.0
"""S4, S5 and LSSL against published layers: outputs, states and every gradient."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from seqlib_kernels import use_backend
from torch import Tensor

from seqlib.mixers import mixer_class
from seqlib.mixers.base import Mixer

GOLDEN = Path(__file__).parents[1] / "golden" / "ssm"
S4D = ("s4d_zoh_lin", "s4d_bilinear_inv", "s4d_zoh_legs_bidir", "s4d_zoh_lin_tied_rate")
S5 = ("s5_zoh_conj_halfglu1", "s5_zoh_bidir_fullglu", "s5_bilinear_noconj_gelu_postnorm")

# Relative RMS error, the worst of the output and all gradients. Measured: float64 3.3e-14 with both
# backends, in the gradient of A_real; float32 9.9e-7.
TOLERANCE = {
    (torch.float64, "reference"): 1e-12,
    (torch.float64, "cpu"): 1e-12,
    (torch.float32, "reference"): 5e-6,
    (torch.float32, "cpu"): 5e-6,
}


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays.items())


def fill(mixer: Mixer, values: dict[str, np.ndarray], dtype: torch.dtype) -> None:
    """Set the parameters that are named."""
    own = dict(mixer.to(dtype).named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            assert own[name].shape == value.shape, name
            own[name].copy_(torch.from_numpy(value))


def worst(got: dict[str, Tensor | None], want: dict[str, np.ndarray]) -> tuple[float, str]:
    errors = []
    for name, value in want.items():
        x = got[name]
        assert x is not None, name
        error = x.detach().double().numpy() - value
        errors.append((float(np.sqrt((error**2).mean() / (value**2).mean())), name))
    return max(errors)


def s4_values(g: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Published parameters, or their gradients, by our names; there lam = -exp() - i A_imag."""
    return {
        "ssm.inv_dt": g[f"{kind}_inv_dt"][:, 0],
        "ssm.A_real": g[f"{kind}_A_real"],
        "ssm.A_imag": -g[f"{kind}_A_imag"],
        "ssm.B": g[f"{kind}_B"][0],
        "ssm.C": g[f"{kind}_C"][:, None],
        "ssm.D": g[f"{kind}_D"],
    }


def s4_mixer(g: dict[str, np.ndarray], dtype: torch.dtype) -> Mixer:
    S, M = g["param_A_real"].shape
    mixer = mixer_class("s4")(
        g["u"].shape[1],
        d_state=2 * M,
        init="lin",
        n_ssm=S,
        discretization=g["disc"].item(),
        dt_transform=g["dt_transform"].item(),
        rate=g["rate"].item(),
        bidirectional=g["bidirectional"].item(),
        activation="none",
    )
    fill(mixer, s4_values(g, "param"), dtype)
    return mixer


@pytest.mark.parametrize(("dtype", "backend"), TOLERANCE)
@pytest.mark.parametrize("name", S4D)
def test_s4_outputs_and_gradients(name, dtype, backend):
    g = load(name)
    mixer = s4_mixer(g, dtype)
    u, cotangent = (torch.from_numpy(g[k]).transpose(1, 2).to(dtype) for k in ("u", "cotangent"))
    u.requires_grad_()
    with use_backend(backend):
        y, _ = mixer.ssm(u, None, None, None, False)
        y.backward(cotangent)
    got = {"y": y, "u": u.grad, **{n: p.grad for n, p in mixer.named_parameters()}}
    want = {"y": g["y"].transpose(0, 2, 1), "u": g["grad_u"].transpose(0, 2, 1)}
    error, where = worst(got, want | s4_values(g, "grad"))
    assert error < TOLERANCE[dtype, backend], (where, error)


def test_s4_states():
    g = load("s4d_zoh_lin")
    mixer = s4_mixer(g, torch.float64)
    u = torch.from_numpy(g["u"]).transpose(1, 2)
    state = torch.view_as_real(torch.from_numpy(g["state_in"]))
    y, last = mixer.ssm(u, state, None, None, True)
    want = torch.view_as_real(torch.from_numpy(g["state_out"]))
    torch.testing.assert_close(
        y, torch.from_numpy(g["y_with_state"]).transpose(1, 2), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(last, want, rtol=1e-10, atol=1e-12)
    state = torch.zeros_like(state)
    for t in range(12):
        y, state = mixer.ssm(u[:, t : t + 1], state, None, None, True)
        want = torch.from_numpy(g["step_y"])[:, :, t]
        torch.testing.assert_close(y[:, 0], want, rtol=1e-10, atol=1e-12)
    want = torch.view_as_real(torch.from_numpy(g["step_state_after"]))
    torch.testing.assert_close(state, want, rtol=1e-10, atol=1e-12)


def s5_values(g: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    found = {
        "ssm.inv_dt": g[f"{kind}__seq__log_step"][:, 0],
        **{f"ssm.{k}": g[f"{kind}__seq__{k}"] for k in ("Lambda_re", "Lambda_im", "B", "D")},
    }
    halves = [g[f"{kind}__seq__{k}"] for k in ("C", "C1", "C2") if f"{kind}__seq__{k}" in g]
    found["ssm.C"] = np.concatenate(halves, 1)
    for theirs, ours in (("out1", "out_proj"), ("out2", "gate_proj")):
        if f"{kind}__{theirs}__kernel" in g:
            found[f"{ours}.weight"] = g[f"{kind}__{theirs}__kernel"].T
            found[f"{ours}.bias"] = g[f"{kind}__{theirs}__bias"]
    return found


@pytest.mark.parametrize(("dtype", "backend"), TOLERANCE)
@pytest.mark.parametrize("name", S5)
def test_s5_layers_and_gradients(name, dtype, backend):
    """Norm and residual connection are the block's; here they stand around the mixer."""
    g = load(name)
    P, H, _ = g["param__seq__B"].shape
    mixer = mixer_class("s5")(
        H,
        d_state=2 * P if g["conj_sym"] else P,
        init="legs",
        discretization=g["discretization"].item(),
        rate=g["step_rescale"].item(),
        conj_sym=g["conj_sym"].item(),
        clip_eigs=g["clip_eigs"].item(),
        bidirectional=g["bidirectional"].item(),
        activation=g["activation"].item(),
    )
    fill(mixer, s5_values(g, "param"), dtype)
    tensors = {k: torch.from_numpy(v).to(dtype) for k, v in g.items() if v.dtype == np.float64}
    x = tensors["u"][None].requires_grad_()
    scale, bias = (tensors[f"param__norm__{k}"].requires_grad_() for k in ("scale", "bias"))

    def norm(x: Tensor) -> Tensor:
        return F.layer_norm(x, (H,), scale, bias, eps=1e-6)

    with use_backend(backend):
        ssm, _ = mixer.ssm(tensors["u"][None], None, None, None, False)
        y = x + mixer(norm(x))[0] if g["prenorm"] else norm(x + mixer(x)[0])
        y.backward(tensors["cotangent"][None])
    got = {"y": y[0], "ssm": ssm[0], "u": x.grad[0], "scale": scale.grad, "bias": bias.grad}
    got |= {n: p.grad for n, p in mixer.named_parameters()}
    want = {"y": g["y_layer"], "ssm": g["y_ssm"], "u": g["grad_u"]}
    want |= {k: g[f"grad__norm__{k}"] for k in ("scale", "bias")}
    error, where = worst(got, want | s5_values(g, "grad"))
    assert error < TOLERANCE[dtype, backend], (where, error)


def test_lssl_outputs_and_state():
    g = load("lssl_n8")
    H, N = g["C"].shape
    mixer = mixer_class("s4")(
        H,
        mode="dense",
        d_state=N,
        init="legs",
        discretization="bilinear",
        alpha=g["alpha"].item(),
        dt_transform="exp",
    ).double()
    np.testing.assert_allclose(mixer.ssm.B.numpy(), g["b"], rtol=1e-6)
    np.testing.assert_allclose(mixer.ssm.A.detach().numpy(), g["A"], rtol=1e-6)
    values = {"A": g["A"], "C": g["C"][None], "D": g["D"][None], "inv_dt": np.log(g["dt"])}
    fill(mixer, {f"ssm.{k}": v for k, v in values.items()}, torch.float64)
    mixer.ssm.B.copy_(torch.from_numpy(g["b"]))
    y, state = mixer.ssm(torch.from_numpy(g["u"]).transpose(1, 2), None, None, None, True)
    torch.testing.assert_close(y, torch.from_numpy(g["y"]).transpose(1, 2), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state, torch.from_numpy(g["state_final"]), rtol=1e-10, atol=1e-12)
