# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet: the delta rule with a decay per token and head."""

from .delta_product import DeltaProduct


class GatedDeltaNet(DeltaProduct):
    """`S = a (I - beta k k') S + beta k v'`: `DeltaProduct` with one correction and a decay.

    Args:
        hidden_size: D.
        num_heads: heads of queries and keys; by default so many that head_dim is about 256.
        head_dim: key size of a head; by default 3/4 of D shared among the heads.
        num_v_heads: value heads, a multiple of `num_heads` and by default as many.
        expand_v: value size of a head in units of head_dim.
        use_gate: multiply the normed output by silu(g_proj(x)).
        use_short_conv, conv_size: a causal convolution of that many taps on q, k and v.
        negative_eigenvalues: let beta reach 2.
        norm_eps: of the output norm.

    Sources: arXiv 2412.06464, 2411.12537.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        num_v_heads: int | None = None,
        expand_v: float = 2.0,
        use_gate: bool = True,
        use_short_conv: bool = True,
        conv_size: int = 4,
        negative_eigenvalues: bool = True,
        norm_eps: float = 1e-6,
    ):
        super().__init__(
            hidden_size,
            num_heads=num_heads,
            head_dim=head_dim,
            num_v_heads=num_v_heads,
            expand_v=expand_v,
            num_householder=1,
            use_forget_gate=True,
            use_gate=use_gate,
            use_short_conv=use_short_conv,
            conv_size=conv_size,
            negative_eigenvalues=negative_eigenvalues,
            norm_eps=norm_eps,
        )
