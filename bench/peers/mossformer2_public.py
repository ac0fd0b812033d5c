# SPDX-License-Identifier: Apache-2.0
"""The separation network as usually written: channels-first convolutions, pads, concatenations.

Plain torch, one operation per line of the equations, on transposed views: what a user of the
published modules runs. It takes weights by the names of published checkpoints.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .fsmn_attention import attend
from .fsmn_dense import convolve_densely

LAYERS = "mask_net.mdl.intra_mdl.mossformerM."


class PublicMossFormer2:
    """`network(waveform [B, T]) -> [B, C, T]`; dilated memory, two convolutions deep, no dropout.

    Args:
        weights: tensors by their published names, `enc.conv1d.weight` and so on.
        group_size: G, which no tensor tells.

    Source: arXiv 2312.11825.
    """

    def __init__(self, weights: Mapping[str, Tensor], group_size: int) -> None:
        self.weights, self.group_size = weights, group_size
        names = [name for name in weights if name.startswith(LAYERS + "layers.")]
        self.layers = len({name.split(".")[5] for name in names})

    def __call__(self, waveform: Tensor) -> Tensor:
        w, kernel = self.weights, self.weights["enc.conv1d.weight"]
        stride = kernel.shape[-1] // 2
        e = F.relu(F.conv1d(waveform[:, None], kernel, stride=stride))  # [B,N,S]
        masks = self._masks(e)  # [C,B,N,S]
        sources = [
            F.conv_transpose1d(e * mask, w["dec.weight"], stride=stride)[:, 0] for mask in masks
        ]
        short = waveform.shape[1] - sources[0].shape[1]
        return torch.stack([F.pad(source, (0, short)) for source in sources], 1)

    def _masks(self, e: Tensor) -> Tensor:
        w, B = _Scope(self.weights, "mask_net."), e.shape[0]
        x = F.group_norm(e, 1, w["norm.weight"], w["norm.bias"], 1e-8)
        x = F.conv1d(x, w["conv1d_encoder.weight"])
        D, S = x.shape[1:]
        angles = torch.arange(S, device=x.device)[:, None] * w["pos_enc.inv_freq"]
        code = torch.cat((angles.sin(), angles.cos()), -1) * w["pos_enc.scale"]
        x0 = x + code.transpose(0, 1)
        h = x0.transpose(1, 2)  # [B,S,D]
        for r in range(self.layers):
            h = self._attention(h, _Scope(self.weights, f"{LAYERS}layers.{r}."))
            h = self._recurrent(h, _Scope(self.weights, f"{LAYERS}fsmn.{r}."))
        h = F.layer_norm(
            h, (D,), w["mdl.intra_mdl.norm.weight"], w["mdl.intra_mdl.norm.bias"], 1e-6
        )
        x = h.transpose(1, 2).contiguous()
        x = F.group_norm(x, 1, w["mdl.intra_norm.weight"], w["mdl.intra_norm.bias"], 1e-8) + x0
        x = F.prelu(x, w["prelu.weight"])
        x = F.conv1d(x, w["conv1d_out.weight"], w["conv1d_out.bias"]).view(-1, D, S)
        value = torch.tanh(F.conv1d(x, w["output.0.weight"], w["output.0.bias"]))
        gate = torch.sigmoid(F.conv1d(x, w["output_gate.0.weight"], w["output_gate.0.bias"]))
        x = F.relu(F.conv1d(value * gate, w["conv1_decoder.weight"]))
        return x.view(B, -1, *x.shape[1:]).transpose(0, 1)

    def _attention(self, h: Tensor, w: "_Scope") -> Tensor:
        shifted, passed = h.chunk(2, dim=-1)
        x = torch.cat((F.pad(shifted, (0, 0, 1, -1)), passed), dim=-1)
        v, u = _convolved(_scale_norm(x, w["to_hidden.mdl.0.g"]), w, "to_hidden").chunk(2, -1)
        qk = _convolved(_scale_norm(x, w["to_qk.mdl.0.g"]), w, "to_qk")
        gamma, beta = w["qk_offset_scale.gamma"], w["qk_offset_scale.beta"]
        gated = attend(v, u, qk, gamma, beta, w["rotary_pos_emb.freqs"], self.group_size)
        return h + _convolved(_scale_norm(gated, w["to_out.mdl.0.g"]), w, "to_out")

    def _recurrent(self, h: Tensor, w: "_Scope") -> Tensor:
        x = F.conv1d(h.transpose(1, 2), w["conv1.0.weight"], w["conv1.0.bias"])
        x = F.prelu(x, w["conv1.1.weight"]).transpose(1, 2)
        width = (x.shape[-1],)
        b = F.layer_norm(x, width, w["norm1.weight"], w["norm1.bias"])
        branches = []
        for name in ("gated_fsmn.to_u", "gated_fsmn.to_v"):
            normed = F.layer_norm(b, width, w[f"{name}.mdl.0.weight"], w[f"{name}.mdl.0.bias"])
            branches.append(_convolved(normed, w, name))
        u, v = branches
        y = v * (u + _dense_memory(u, w)) + b
        y = F.layer_norm(y, width, w["norm2.weight"], w["norm2.bias"])
        out = F.conv1d(y.transpose(1, 2), w["conv2.weight"], w["conv2.bias"])
        return h + out.transpose(1, 2)


class _Scope:
    """Weights whose names begin alike."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[self._prefix + name]


def _scale_norm(x: Tensor, gain: Tensor) -> Tensor:
    rms = torch.norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
    return x / rms.clamp(min=1e-5) * gain


def _convolved(x: Tensor, w: _Scope, name: str) -> Tensor:
    """Linear, SiLU, and a depthwise convolution beside a residual; x is normed."""
    z = F.silu(F.linear(x, w[f"{name}.mdl.1.weight"], w[f"{name}.mdl.1.bias"]))
    taps = w[f"{name}.mdl.3.sequential.1.conv.weight"]
    along = z.transpose(1, 2)
    mixed = F.conv1d(along, taps, padding=taps.shape[-1] // 2, groups=taps.shape[0])
    return z + mixed.transpose(1, 2)


def _dense_memory(u: Tensor, w: _Scope) -> Tensor:
    hidden = F.relu(
        F.linear(u, w["gated_fsmn.fsmn.linear.weight"], w["gated_fsmn.fsmn.linear.bias"])
    )
    p = F.linear(hidden, w["gated_fsmn.fsmn.project.weight"])
    names = ("conv{}.weight", "norm{}.weight", "norm{}.bias", "prelu{}.weight")
    layers = (
        tuple(w["gated_fsmn.fsmn.conv." + name.format(depth)] for name in names) for depth in (1, 2)
    )
    return convolve_densely(p, layers)
