# SPDX-License-Identifier: Apache-2.0
"""Mamba and Mamba-2 as transformers stores them, and Mamba as flash-linear-attention does."""

from typing import Any

from torch import nn

from ...mixers.mamba import Mamba
from ...mixers.mamba2 import Mamba2
from ..lm import SeqLMConfig
from .family import Family, require

_FIELDS: dict[str, Any] = {
    "use_cache": True,
    "initializer_range": 0.1,
    "dtype": None,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
}
_FIXED: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", "swish")}
_WITHOUT_EFFECT = frozenset(
    # initial values, and ways to compute the same; residuals in float32 differ in 16 bits alone
    {"time_step_min", "time_step_max", "time_step_floor", "time_step_scale"}
    | {"time_step_init_scheme", "rescale_prenorm_residual", "residual_in_fp32"}
    | {"use_mambapy", "use_associative_scan", "chunk_size"}
    # derived from others, or left by earlier conversions: transformers reads none of them
    | {"intermediate_size", "d_inner", "d_model", "n_layer", "fused_add_norm", "rms_norm"}
    | {"norm_before_gate", "pad_vocab_size_multiple", "ssm_cfg"}
)
_FORMER_NAMES = {"torch_dtype": "dtype"}
# flash-linear-attention stores the same tensors of Mamba under the same model_type
_FLA_NAMES = {"norm_eps": "layer_norm_epsilon"}
_FLA_WITHOUT_EFFECT = {
    *("fuse_norm", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp"),
}
_TENSORS = (
    (r"^model\.embed_tokens\.", "backbone.embeddings."),
    (r"^model\.norm\.", "backbone.norm_f."),
    (r"^model\.(layers\.\d+)\.mixer_norm\.", r"backbone.\1.norm."),
    (r"^model\.", "backbone."),
)


def _to_ours(mixer: str, fields: dict[str, Any], **options: Any) -> dict[str, Any]:
    options |= {
        "d_state": fields["state_size"],
        "d_conv": fields["conv_kernel"],
        "expand": float(fields["expand"]),
        "use_bias": fields["use_bias"],
        "conv_bias": fields["use_conv_bias"],
        "negative_eigenvalues": False,
    }
    return {
        "block_types": [mixer] * fields["num_hidden_layers"],
        "mixer_kwargs": {mixer: options},
        "intermediate_size": 0,
        "rms_norm_eps": fields["layer_norm_epsilon"],
    }


def _to_theirs(config: SeqLMConfig, mixer: Mamba | Mamba2, **own: Any) -> dict[str, Any]:
    expand = mixer.d_inner / config.hidden_size
    require(
        not config.intermediate_size,
        "intermediate_size",
        "0: their blocks have no MLP",
        config.intermediate_size,
    )
    require(
        not mixer.negative_eigenvalues,
        "negative_eigenvalues",
        "False: their decays are exp(Delta A)",
        mixer.negative_eigenvalues,
    )
    require(expand == int(expand), "expand", "a whole number", expand)
    return {
        "hidden_act": "silu",
        "layer_norm_epsilon": config.rms_norm_eps,
        "expand": int(expand),
        "state_size": mixer.d_state,
        "conv_kernel": mixer.conv1d.kernel_size,
        "use_bias": mixer.in_proj.bias is not None,
        "use_conv_bias": mixer.conv1d.bias is not None,
        **own,
    }


def _mamba_to_ours(fields: dict[str, Any]) -> dict[str, Any]:
    rank = fields["time_step_rank"]
    return _to_ours("mamba", fields, dt_rank=None if rank == "auto" else rank)


def _mamba_to_theirs(config: SeqLMConfig, mixer: nn.Module) -> dict[str, Any]:
    assert isinstance(mixer, Mamba)
    return _to_theirs(config, mixer, time_step_rank=mixer.dt_rank)


def _mamba2_to_ours(fields: dict[str, Any]) -> dict[str, Any]:
    width = fields["hidden_size"] * fields["expand"]
    require(
        fields["num_heads"] * fields["head_dim"] == width,
        "num_heads",
        f"hidden_size * expand / head_dim = {width} / {fields['head_dim']}",
        fields["num_heads"],
    )
    return _to_ours(
        "mamba2",
        fields,
        head_dim=fields["head_dim"],
        n_groups=fields["n_groups"],
        norm_eps=fields["layer_norm_epsilon"],
    )


def _mamba2_to_theirs(config: SeqLMConfig, mixer: nn.Module) -> dict[str, Any]:
    assert isinstance(mixer, Mamba2)
    require(
        mixer.norm.eps == config.rms_norm_eps,
        "norm_eps",
        f"equal to rms_norm_eps={config.rms_norm_eps}: they have one for all norms",
        mixer.norm.eps,
    )
    return _to_theirs(
        config,
        mixer,
        num_heads=mixer.num_heads,
        head_dim=mixer.head_dim,
        n_groups=mixer.n_groups,
    )


FAMILIES = (
    Family(
        model_type="mamba",
        architecture="MambaForCausalLM",
        mixer="mamba",
        fields=_FIELDS
        | {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 32, "state_size": 16}
        | {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": True}
        | {"time_step_rank": "auto"},
        fixed=_FIXED,
        without_effect=_WITHOUT_EFFECT | _FLA_WITHOUT_EFFECT,
        former_names=_FORMER_NAMES | _FLA_NAMES,
        tensors=((r"^model\.(.*\.mixer)\.dt_bias$", r"backbone.\1.dt_proj.bias"), *_TENSORS),
        to_ours=_mamba_to_ours,
        to_theirs=_mamba_to_theirs,
    ),
    Family(
        model_type="mamba2",
        architecture="Mamba2ForCausalLM",
        mixer="mamba2",
        fields=_FIELDS
        | {"vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64, "state_size": 128}
        | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "tie_word_embeddings": False}
        | {"num_heads": 128, "head_dim": 64, "n_groups": 8},
        fixed=_FIXED | {"time_step_limit": ([0.0, float("inf")],)},
        without_effect=_WITHOUT_EFFECT | {"time_step_rank"},
        former_names=_FORMER_NAMES,
        tensors=_TENSORS,
        to_ours=_mamba2_to_ours,
        to_theirs=_mamba2_to_theirs,
    ),
)
