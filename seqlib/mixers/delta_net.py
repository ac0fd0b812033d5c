# SPDX-License-Identifier: Apache-2.0
"""DeltaNet: the delta rule without decay."""

from .checks import check_positive, whole
from .delta_mixer import DeltaMixer


class DeltaNet(DeltaMixer):
    """`S = (I - beta k k') S + beta k v'`, one correction per token.

    Args:
        hidden_size: D.
        num_heads: heads; one per 128 channels by default.
        expand_k, expand_v: width of all keys and of all values together, in units of D.
        use_gate: multiply the normed output by silu(g_proj(x)).
        use_short_conv, conv_size: a causal convolution of that many taps on q, k and v.
        negative_eigenvalues: let beta reach 2. Without it the layer can't track a state as
            simple as parity beyond the lengths it was trained on.
        norm_eps: of the output norm.

    Sources: arXiv 2406.06484, 2411.12537.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        num_heads: int | None = None,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        use_gate: bool = False,
        use_short_conv: bool = True,
        conv_size: int = 4,
        negative_eigenvalues: bool = True,
        norm_eps: float = 1e-6,
    ):
        check_positive(num_heads=num_heads)
        heads = num_heads or max(1, hidden_size // 128)
        k_dim, v_dim = hidden_size * expand_k / heads, hidden_size * expand_v / heads
        super().__init__(
            hidden_size,
            num_heads=heads,
            num_v_heads=heads,
            head_k_dim=whole("the key size of a head", k_dim, "hidden_size * expand_k / num_heads"),
            head_v_dim=whole(
                "the value size of a head", v_dim, "hidden_size * expand_v / num_heads"
            ),
            num_householder=1,
            use_forget_gate=False,
            use_gate=use_gate,
            use_short_conv=use_short_conv,
            conv_size=conv_size,
            negative_eigenvalues=negative_eigenvalues,
            norm_eps=norm_eps,
        )
