# SPDX-License-Identifier: Apache-2.0
"""DeltaProduct: several corrections of the state per token."""

from .checks import check_positive, whole
from .delta_mixer import DeltaMixer


class DeltaProduct(DeltaMixer):
    """`S = a S`, then n times `S = (I - beta k k') S + beta k v'`, per token.

    The transition of a token is a product of n reflections, which with eigenvalues in [-1, 1]
    can rotate: n = 2 tracks any automaton made of rotations in three dimensions.

    Args:
        hidden_size: D.
        num_heads: heads of queries and keys; by default so many that head_dim is about 256.
        head_dim: key size of a head; by default 3/4 of D shared among the heads.
        num_v_heads: value heads, a multiple of `num_heads` and by default as many.
        expand_v: value size of a head in units of head_dim.
        num_householder: n, at least 1.
        use_forget_gate: the decay a; 1 without it.
        use_gate: multiply the normed output by silu(g_proj(x)).
        use_short_conv, conv_size: a causal convolution of that many taps on q, k and v.
        negative_eigenvalues: let beta reach 2; without it nothing rotates.
        norm_eps: of the output norm.

    Source: arXiv 2502.10297.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        num_v_heads: int | None = None,
        expand_v: float = 2.0,
        num_householder: int = 2,
        use_forget_gate: bool = True,
        use_gate: bool = True,
        use_short_conv: bool = True,
        conv_size: int = 4,
        negative_eigenvalues: bool = True,
        norm_eps: float = 1e-6,
    ):
        check_positive(num_heads=num_heads, head_dim=head_dim, num_v_heads=num_v_heads)
        heads = num_heads or max(1, round(3 * hidden_size / 4 / (head_dim or 256)))
        k_dim = head_dim or whole(
            "head_dim", 3 * hidden_size / 4 / heads, "3/4 * hidden_size / num_heads"
        )
        super().__init__(
            hidden_size,
            num_heads=heads,
            num_v_heads=num_v_heads or heads,
            head_k_dim=k_dim,
            head_v_dim=whole("the value size of a head", k_dim * expand_v, "head_dim * expand_v"),
            num_householder=num_householder,
            use_forget_gate=use_forget_gate,
            use_gate=use_gate,
            use_short_conv=use_short_conv,
            conv_size=conv_size,
            negative_eigenvalues=negative_eigenvalues,
            norm_eps=norm_eps,
        )
