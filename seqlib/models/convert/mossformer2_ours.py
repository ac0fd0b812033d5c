# SPDX-License-Identifier: Apache-2.0
"""What our networks call a tensor of a published MossFormer2 checkpoint."""

import re

_NETWORK = (
    (r"enc\.conv1d\.weight", "encoder.weight"),
    (r"dec\.weight", "decoder.weight"),
    (r"mask_net\.norm\.(\w+)", r"model.input_norm.\1"),
    (r"mask_net\.conv1d_encoder\.weight", "model.input_projection.weight"),
    (r"mask_net\.pos_enc\.scale", "model.position_code.scale"),
    (r"mask_net\.mdl\.intra_mdl\.norm\.(\w+)", r"model.norm.\1"),
    (r"mask_net\.mdl\.intra_norm\.(\w+)", r"model.output_norm.\1"),
    (r"mask_net\.prelu\.weight", "model.slope"),
    (r"mask_net\.conv1d_out\.(\w+)", r"mask_head.sources.\1"),
    (r"mask_net\.output\.0\.(\w+)", r"mask_head.value.\1"),
    (r"mask_net\.output_gate\.0\.(\w+)", r"mask_head.gate.\1"),
    (r"mask_net\.conv1_decoder\.weight", "mask_head.output.weight"),
)
_LAYER = (
    (r"layers\.(\d+)\.qk_offset_scale\.(\w+)", r"\1.attention.\2"),
    (r"layers\.(\d+)\.(to_\w+)\.(.*)", r"\1.attention.\2.\3"),
    (r"fsmn\.(\d+)\.conv1\.0\.(\w+)", r"\1.memory.reduce.\2"),
    (r"fsmn\.(\d+)\.conv1\.1\.weight", r"\1.memory.slope"),
    (r"fsmn\.(\d+)\.norm1\.(\w+)", r"\1.memory.norm_in.\2"),
    (r"fsmn\.(\d+)\.norm2\.(\w+)", r"\1.memory.norm_out.\2"),
    (r"fsmn\.(\d+)\.conv2\.(\w+)", r"\1.memory.expand.\2"),
    (r"fsmn\.(\d+)\.gated_fsmn\.(to_\w+)\.(.*)", r"\1.memory.gated.\2.\3"),
    (r"fsmn\.(\d+)\.gated_fsmn\.fsmn\.conv1\.weight", r"\1.memory.gated.memory.taps"),
    (r"fsmn\.(\d+)\.gated_fsmn\.fsmn\.(linear|project)\.(\w+)", r"\1.memory.gated.memory.\2.\3"),
)
_PROJECTION = (
    (r"(.*)\.mdl\.0\.g", r"\1.norm.gain"),
    (r"(.*)\.mdl\.0\.(\w+)", r"\1.norm.\2"),
    (r"(.*)\.mdl\.1\.(\w+)", r"\1.linear.\2"),
    (r"(.*)\.mdl\.3\.sequential\.1\.conv\.weight", r"\1.taps"),
)
_BLOCKS = "mask_net.mdl.intra_mdl.mossformerM."
_CONVOLUTION = re.compile(r"fsmn\.(\d+)\.gated_fsmn\.fsmn\.conv\.(conv|norm|prelu)(\d+)\.(\w+)")
_FIELDS = {"conv": "taps", "prelu": "slope", "weight": "gain", "bias": "shift"}


def our_name(name: str) -> str:
    """Our name of a tensor, from its common public name."""
    if not name.startswith(_BLOCKS):
        return _replaced(name, _NETWORK)
    inside = name.removeprefix(_BLOCKS)
    if match := _CONVOLUTION.fullmatch(inside):
        layer, kind, number, parameter = match.groups()
        field = _FIELDS[parameter if kind == "norm" else kind]
        memory = f"model.layers.{layer}.memory.gated.memory"
        return f"{memory}.convolutions.{int(number) - 1}.{field}"
    return f"model.layers.{_replaced(_replaced(inside, _LAYER), _PROJECTION)}"


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in pairs:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name
