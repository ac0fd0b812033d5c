# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of the tensors in published MossFormer2 checkpoints.

One naming stands for all: that of the separation networks of ClearerVoice. The others differ by
prefixes.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .family import ConversionError

ROTATION = "rotary_pos_emb.freqs"
POSITIONS = "pos_enc.inv_freq"

_LAYERS = "mask_net.mdl.intra_mdl.mossformerM.layers.{}."
_MEMORIES = "mask_net.mdl.intra_mdl.mossformerM.fsmn.{}."

# Prefixes of the standalone release and of the enhancement network, in ours, the longest first.
_STANDALONE = (
    ("masknet.dual_mdl.0.intra_mdl.mdl.flashT.", "mask_net.mdl.intra_mdl.mossformerM."),
    ("masknet.dual_mdl.0.intra_mdl.mdl.norm.norm.", "mask_net.mdl.intra_mdl.norm."),
    ("masknet.dual_mdl.0.intra_norm.", "mask_net.mdl.intra_norm."),
    ("masknet.", "mask_net."),
    ("encoder.", "enc."),
    ("decoder.", "dec."),
)
_ENHANCEMENT = (("mossformer.", "mask_net."),)
LAYOUTS = {"clearvoice": (), "standalone": _STANDALONE, "modelscope": ()}


def to_common(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of the separation networks of ClearerVoice."""
    if any(name.startswith("masknet.") for name in tensors):
        pairs = _STANDALONE
    elif any(name.startswith("mossformer.") for name in tensors):
        pairs = _ENHANCEMENT
    else:
        pairs = ()
    return {_renamed(name, pairs): value for name, value in tensors.items()}


def from_common(name: str, layout: str, enhancement: bool) -> str:
    """What the tensor `name` is called in a layout.

    Raises:
        ValueError: the enhancement network in the standalone layout, which has none.
    """
    if enhancement and LAYOUTS[layout]:
        raise ValueError(f"layout must be 'clearvoice' for an enhancement network, got {layout!r}")
    pairs = _ENHANCEMENT if enhancement else LAYOUTS[layout]
    return _renamed(name, tuple((ours, theirs) for theirs, ours in pairs))


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of the configuration that shapes tell, of tensors under common names.

    Raises:
        ConversionError: a tensor that tells a size is missing or has another number of axes.
    """

    def size(name: str, axis: int) -> int:
        if name not in tensors:
            raise ConversionError(f"the checkpoint lacks {name}: it is no MossFormer2 network")
        if tensors[name].dim() <= axis:
            raise ConversionError(f"{name} has too few axes: {tuple(tensors[name].shape)}")
        return tensors[name].shape[axis]

    def indices(pattern: str) -> int:
        found = (re.match(pattern, name) for name in tensors)
        return len({match[1] for match in found if match})

    layer, memory = _LAYERS.format(0), _MEMORIES.format(0)
    width = size("mask_net.conv1d_encoder.weight", 0)
    plain = f"{memory}gated_fsmn.fsmn.conv1.weight" in tensors
    first = f"{memory}gated_fsmn.fsmn.{'' if plain else 'conv.'}conv1.weight"
    fields = {
        "hidden_size": width,
        "num_speakers": size("mask_net.conv1d_out.weight", 0) // width,
        "num_hidden_layers": indices(re.escape(_LAYERS).replace(r"\{\}", r"(\d+)")),
        "query_key_dim": size(f"{layer}qk_offset_scale.gamma", 1),
        "hidden_expansion": size(f"{layer}to_hidden.mdl.1.weight", 0) // width,
        "rotary_dim": 2 * size(f"{layer}{ROTATION}", 0),
        "conv_kernel_size": size(f"{layer}to_hidden.mdl.3.sequential.1.conv.weight", 2),
        "inner_size": size(f"{memory}norm1.weight", 0),
        "fsmn_order": (size(first, 2) + 1) // 2,
        "fsmn_depth": 1
        if plain
        else indices(re.escape(f"{memory}gated_fsmn.fsmn.conv.conv") + r"(\d+)\.weight"),
        "memory": "plain" if plain else "dilated",
    }
    if any(name.startswith("enc.") for name in tensors):
        return fields | {"encoder_kernel_size": size("enc.conv1d.weight", 2)}
    return fields | {
        "input_features": size("mask_net.conv1d_encoder.weight", 1),
        "output_features": size("mask_net.conv1_decoder.weight", 0),
    }


def shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a published checkpoint of this network has."""
    width, speakers = config.hidden_size, config.num_speakers
    enhances = config.input_features is not None
    inputs = config.input_features if enhances else width
    outputs = config.output_features if enhances else width
    kernel = config.encoder_kernel_size
    ends = {"enc.conv1d.weight": (width, 1, kernel), "dec.weight": (width, 1, kernel)}
    table: dict[str, tuple[int, ...]] = {} if enhances else ends
    table |= _affine("mask_net.norm", (inputs,))
    table |= {
        "mask_net.conv1d_encoder.weight": (width, inputs, 1),
        "mask_net.pos_enc.scale": (1,),
        f"mask_net.{POSITIONS}": (width // 2,),
        "mask_net.prelu.weight": (1,),
        "mask_net.conv1_decoder.weight": (outputs, width, 1),
    }
    table |= _affine("mask_net.mdl.intra_mdl.norm", (width,))
    table |= _affine("mask_net.mdl.intra_norm", (width,))
    table |= _affine("mask_net.conv1d_out", (speakers * width, width, 1))
    table |= _affine("mask_net.output.0", (width, width, 1))
    table |= _affine("mask_net.output_gate.0", (width, width, 1))
    for i in range(config.num_hidden_layers):
        table |= {_LAYERS.format(i) + k: v for k, v in _attention(config).items()}
        table |= {_MEMORIES.format(i) + k: v for k, v in _memory(config).items()}
    return table


def _attention(config: Any) -> dict[str, tuple[int, ...]]:
    width, keys = config.hidden_size, config.query_key_dim
    hidden = config.hidden_expansion * width
    table: dict[str, tuple[int, ...]] = {
        ROTATION: (min(config.rotary_dim, keys) // 2,),
        "qk_offset_scale.gamma": (4, keys),
        "qk_offset_scale.beta": (4, keys),
    }
    for name, rows, columns in (
        ("to_hidden", hidden, width),
        ("to_qk", keys, width),
        ("to_out", width, hidden // 2),
    ):
        table |= {f"{name}.mdl.0.g": (1,)} | _projection(config, name, rows, columns)
    return table


def _memory(config: Any) -> dict[str, tuple[int, ...]]:
    width, inner = config.hidden_size, config.inner_size
    taps = 2 * config.fsmn_order - 1
    table = _affine("conv1.0", (inner, width, 1)) | {"conv1.1.weight": (1,)}
    table |= _affine("conv2", (width, inner, 1))
    table |= _affine("norm1", (inner,)) | _affine("norm2", (inner,))
    for name in ("gated_fsmn.to_u", "gated_fsmn.to_v"):
        table |= _affine(f"{name}.mdl.0", (inner,)) | _projection(config, name, inner, inner)
    table |= _affine("gated_fsmn.fsmn.linear", (inner, inner))
    table["gated_fsmn.fsmn.project.weight"] = (inner, inner)
    if config.memory == "plain":
        return table | {"gated_fsmn.fsmn.conv1.weight": (inner, 1, taps, 1)}
    for i in range(1, config.fsmn_depth + 1):
        table[f"gated_fsmn.fsmn.conv.conv{i}.weight"] = (inner, i, taps, 1)
        table |= _affine(f"gated_fsmn.fsmn.conv.norm{i}", (inner,))
        table[f"gated_fsmn.fsmn.conv.prelu{i}.weight"] = (inner,)
    return table


def _projection(config: Any, name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    taps = {f"{name}.mdl.3.sequential.1.conv.weight": (rows, 1, config.conv_kernel_size)}
    return _affine(f"{name}.mdl.1", (rows, columns)) | taps


def _affine(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def frequencies(channels: int) -> Tensor:
    """10000^(-2j / channels) in float32, as published checkpoints store them."""
    return 1.0 / 10000 ** (torch.arange(0, channels, 2).float() / channels)
