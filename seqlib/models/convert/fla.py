# SPDX-License-Identifier: Apache-2.0
"""DeltaNet, Gated DeltaNet and (Gated) DeltaProduct as flash-linear-attention stores them."""

from typing import Any

from torch import nn

from ...mixers.delta_mixer import DeltaMixer
from ..lm import SeqLMConfig
from .family import Family, require

# What the three configurations have in common.
_FIELDS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "tie_word_embeddings": False,
    "use_cache": True,
    "initializer_range": 0.02,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": None,
    "max_position_embeddings": 2048,
    "norm_eps": 1e-6,
    "hidden_ratio": None,  # 4
    "intermediate_size": None,
    "use_short_conv": True,
    "conv_size": 4,
    "allow_neg_eigval": False,
}
_HEADS: dict[str, Any] = {
    "num_hidden_layers": 21,
    "num_heads": 6,
    "head_dim": 256,
    "expand_v": 2.0,
}
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("swish", "silu"),
    "attn": (None,),
    "conv_bias": (False, None),
    "norm_first": (False,),
}
_WITHOUT_EFFECT = frozenset(
    {"attn_mode", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy", "fuse_linear_cross_entropy"}
    | {"use_l2warp"}
)
_FORMER_NAMES = {"rms_norm_eps": "norm_eps", "torch_dtype": "dtype"}
_TENSORS = (
    (r"^model\.embed_tokens\.", "model.embeddings."),
    (r"^(model\.layers\.\d+)\.mixer_norm\.", r"\1.attn_norm."),
    (r"^(model\.layers\.\d+)\.mixer\.", r"\1.attn."),
)


def _to_ours(mixer: str, fields: dict[str, Any], **options: Any) -> dict[str, Any]:
    width = fields["intermediate_size"]
    if width is None:
        ratio = 4 if fields["hidden_ratio"] is None else fields["hidden_ratio"]
        width = 256 * -(-int(fields["hidden_size"] * ratio * 2 / 3) // 256)
    options |= {name: fields[name] for name in ("num_heads", "use_short_conv", "conv_size")}
    options |= {
        "expand_v": float(fields["expand_v"]),
        "negative_eigenvalues": fields["allow_neg_eigval"],
        "norm_eps": fields["norm_eps"],
    }
    return {
        "block_types": [mixer] * fields["num_hidden_layers"],
        "mixer_kwargs": {mixer: options},
        "intermediate_size": width,
        "rms_norm_eps": fields["norm_eps"],
        "max_position_embeddings": fields["max_position_embeddings"],
    }


def _to_theirs(config: SeqLMConfig, mixer: nn.Module, **own: Any) -> dict[str, Any]:
    assert isinstance(mixer, DeltaMixer)
    require(
        bool(config.intermediate_size),
        "intermediate_size",
        "above zero: their blocks have an MLP",
        config.intermediate_size,
    )
    require(
        mixer.o_norm.eps == config.rms_norm_eps,
        "norm_eps",
        f"equal to rms_norm_eps={config.rms_norm_eps}: they have one for all norms",
        mixer.o_norm.eps,
    )
    return {
        "hidden_act": "swish",
        "max_position_embeddings": config.max_position_embeddings,
        "intermediate_size": config.intermediate_size,
        "norm_eps": config.rms_norm_eps,
        "num_heads": mixer.num_heads,
        "use_short_conv": mixer.use_short_conv,
        "conv_size": mixer.q_conv1d.kernel_size if mixer.use_short_conv else 4,
        "allow_neg_eigval": mixer.negative_eigenvalues,
        **own,
    }


def _delta_net_to_ours(fields: dict[str, Any]) -> dict[str, Any]:
    expand_k = float(fields["expand_k"])
    return _to_ours("delta_net", fields, expand_k=expand_k, use_gate=fields["use_gate"])


def _delta_net_to_theirs(config: SeqLMConfig, mixer: nn.Module) -> dict[str, Any]:
    assert isinstance(mixer, DeltaMixer)
    return _to_theirs(
        config,
        mixer,
        expand_k=mixer.num_heads * mixer.head_k_dim / config.hidden_size,
        expand_v=mixer.num_heads * mixer.head_v_dim / config.hidden_size,
        use_gate=mixer.use_gate,
        qk_activation="silu",
        qk_norm="l2",
    )


def _gated_to_ours(fields: dict[str, Any]) -> dict[str, Any]:
    heads = fields["num_heads"] if fields["num_v_heads"] is None else fields["num_v_heads"]
    options = {name: fields[name] for name in ("head_dim", "use_gate")}
    return _to_ours("gated_delta_net", fields, num_v_heads=heads, **options)


def _gated_to_theirs(config: SeqLMConfig, mixer: nn.Module) -> dict[str, Any]:
    assert isinstance(mixer, DeltaMixer)
    return _to_theirs(
        config,
        mixer,
        head_dim=mixer.head_k_dim,
        expand_v=mixer.head_v_dim / mixer.head_k_dim,
        num_v_heads=mixer.num_v_heads,
        use_gate=mixer.use_gate,
    )


def _product_to_ours(fields: dict[str, Any]) -> dict[str, Any]:
    names = ("head_dim", "num_householder", "use_forget_gate")
    options = {name: fields[name] for name in names}
    return _to_ours("delta_product", fields, use_gate=fields["use_output_gate"], **options)


def _product_to_theirs(config: SeqLMConfig, mixer: nn.Module) -> dict[str, Any]:
    assert isinstance(mixer, DeltaMixer)
    require(
        mixer.num_v_heads == mixer.num_heads,
        "num_v_heads",
        f"equal to num_heads={mixer.num_heads}: their models have no field for it",
        mixer.num_v_heads,
    )
    return _to_theirs(
        config,
        mixer,
        head_dim=mixer.head_k_dim,
        expand_v=mixer.head_v_dim / mixer.head_k_dim,
        use_output_gate=mixer.use_gate,
        use_forget_gate=mixer.use_forget_gate,
        num_householder=mixer.num_householder,
    )


FAMILIES = (
    Family(
        model_type="delta_net",
        architecture="DeltaNetForCausalLM",
        mixer="delta_net",
        fields=_FIELDS
        | {"num_hidden_layers": 24, "num_heads": 16}
        | {"expand_k": 1.0, "expand_v": 1.0, "use_gate": False},
        fixed=_FIXED
        | {"qk_activation": ("silu",), "qk_norm": ("l2",), "use_beta": (True,)}
        | {"use_output_norm": (True,), "share_conv_kernel": (False,), "use_rope": (False,)}
        | {"elementwise_affine": (True,)},
        without_effect=_WITHOUT_EFFECT | {"chunk_size"},
        former_names=_FORMER_NAMES,
        tensors=_TENSORS,
        to_ours=_delta_net_to_ours,
        to_theirs=_delta_net_to_theirs,
    ),
    Family(
        model_type="gated_deltanet",
        architecture="GatedDeltaNetForCausalLM",
        mixer="gated_delta_net",
        fields=_FIELDS | _HEADS | {"num_v_heads": None, "use_gate": True},
        fixed=_FIXED,
        without_effect=_WITHOUT_EFFECT,
        former_names=_FORMER_NAMES,
        tensors=_TENSORS,
        to_ours=_gated_to_ours,
        to_theirs=_gated_to_theirs,
    ),
    Family(
        model_type="gated_deltaproduct",
        architecture="GatedDeltaProductForCausalLM",
        mixer="delta_product",
        fields=_FIELDS
        | _HEADS
        | {"use_output_gate": True, "use_forget_gate": False, "num_householder": 1},
        fixed=_FIXED,
        without_effect=_WITHOUT_EFFECT,
        former_names=_FORMER_NAMES,
        tensors=_TENSORS,
        to_ours=_product_to_ours,
        to_theirs=_product_to_theirs,
    ),
)
