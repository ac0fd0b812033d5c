# SPDX-License-Identifier: Apache-2.0
"""The loops of joint attention on CPUs around its matrix products, one group of frames at a time.

Comparisons are written so that NaN takes the branch on which it stays NaN.
"""

from ..._core.exponential import sigmoid
from ..._core.lowp import narrow, widen
from ..._core.rows import compile_kernel


@compile_kernel
def make_head(head, qk, gain, offset, cos, sin, factor):
    """head = factor * rotate(gain qk + offset), rows of a group"""
    S, turned = qk.shape[1], cos.shape[1]
    for i in range(len(head)):
        head_i, qk_i, cos_i, sin_i = head[i], qk[i], cos[i], sin[i]
        for d in range(turned):
            a = widen(qk_i[2 * d]) * gain[2 * d] + offset[2 * d]
            b = widen(qk_i[2 * d + 1]) * gain[2 * d + 1] + offset[2 * d + 1]
            head_i[2 * d] = factor * (a * cos_i[d] - b * sin_i[d])
            head_i[2 * d + 1] = factor * (b * cos_i[d] + a * sin_i[d])
        for d in range(2 * turned, S):
            head_i[d] = factor * (widen(qk_i[d]) * gain[d] + offset[d])


@compile_kernel
def head_gradients(dqk, dgain, doffset, dhead, qk, gain, cos, sin, factor, add):
    """Of `make_head`: dqk is set, or added to; dhead is spoilt; the others are sums."""
    S, turned = qk.shape[1], cos.shape[1]
    for i in range(len(dhead)):
        g, qk_i, dqk_i, cos_i, sin_i = dhead[i], qk[i], dqk[i], cos[i], sin[i]
        for d in range(turned):
            a, b = g[2 * d], g[2 * d + 1]
            g[2 * d] = a * cos_i[d] + b * sin_i[d]
            g[2 * d + 1] = b * cos_i[d] - a * sin_i[d]
        for d in range(S):
            g_d = factor * g[d]
            doffset[d] += g_d
            dgain[d] += g_d * widen(qk_i[d])
            dqk_i[d] = (dqk_i[d] if add else 0) + g_d * gain[d]


@compile_kernel
def square(P, root, scale, keep, keep_scale, causal):
    """root = relu(scale P), zero for later columns if causal; P = root^2 keep keep_scale"""
    scale, keep_scale, zero = P.dtype.type(scale), P.dtype.type(keep_scale), P.dtype.type(0)
    for i in range(P.shape[0]):
        P_i, root_i = P[i], root[i]
        seen = i + 1 if causal else len(P_i)
        for j in range(seen):
            x = scale * P_i[j]
            x = zero if x <= zero else x
            root_i[j] = x
            P_i[j] = x * x
        for j in range(seen, len(P_i)):
            root_i[j] = P_i[j] = zero
        if len(keep) > 0:
            keep_i = keep[i]
            for j in range(seen):
                P_i[j] *= keep_scale if keep_i[j] else zero


@compile_kernel
def square_gradients(dP, root, scale, keep, keep_scale, causal):
    """dP becomes the gradient of what `square` got in the place of P."""
    scale, keep_scale, zero = 2 * dP.dtype.type(scale), dP.dtype.type(keep_scale), dP.dtype.type(0)
    for i in range(dP.shape[0]):
        dP_i, root_i = dP[i], root[i]
        seen = i + 1 if causal else len(dP_i)
        for j in range(seen):
            dP_i[j] *= scale * root_i[j]
        dP_i[seen:] = zero
        if len(keep) > 0:
            keep_i = keep[i]
            for j in range(seen):
                dP_i[j] *= keep_scale if keep_i[j] else zero


@compile_kernel
def gate(o, A, z, first, last):
    """o = (A_u v) sigmoid(A_v u) for rows [first, last)"""
    E = o.shape[1]
    for i in range(first, last):
        o_i, v, u, A_v, A_u = o[i], z[i, :E], z[i, E:], A[i, :E], A[i, E:]
        for e in range(E):
            y = A_u[e] * widen(v[e]) * sigmoid(A_v[e] * widen(u[e]))
            o_i[e] = narrow(y, o_i[e])


@compile_kernel
def gate_gradients(A, dz, do, z, first, last):
    """A becomes its gradient, and dz what of the gradient of z goes through the gate."""
    E = do.shape[1]
    for i in range(first, last):
        do_i, v, u, A_v, A_u = do[i], z[i, :E], z[i, E:], A[i, :E], A[i, E:]
        dv, du = dz[i, :E], dz[i, E:]
        for e in range(E):
            v_e, u_e, a_v, a_u = widen(v[e]), widen(u[e]), A_v[e], A_u[e]
            s = sigmoid(a_v * u_e)
            open_ = widen(do_i[e]) * s
            q = open_ * a_u * v_e * (1 - s)
            dv[e], du[e] = open_ * a_u, q * a_v
            A_v[e], A_u[e] = q * u_e, open_ * v_e
