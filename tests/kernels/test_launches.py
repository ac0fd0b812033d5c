# SPDX-License-Identifier: Apache-2.0
"""What every family launches: small shapes wait for launches, and graphs capture them."""

import pytest
import torch
from seqlib_kernels import testing
from seqlib_kernels.testing import Problem, solve


def _dense_fsmn_memory(layers):
    forward = ["_outputs", "_moments", "_merge"]
    backward = ["_gradient_sums", "_add", "_differentiate", "_give", "_taps"]
    return [*(forward * layers), "_activate"], backward * layers


# Forward and backward, by op or by op and case; the spec of linear RNNs allows two and three.
LAUNCHES = {
    "linear_scan": (["_scan"], ["_adjoint"]),
    "delta_rule": (
        ["chunk_matrices", "forward_sweep"],
        ["forward_sweep", "backward_sweep", "chunk_gradients"],
    ),
    "selective_scan": (["_scan"], ["_adjoint", "_sum_blocks", "_sum_sequences"]),
    "ssd": (
        ["forward_sweep", "chunk_outputs"],
        ["both_sweeps", "write_gradients", "group_gradients"],
    ),
    "diagonal_ssm": (
        ["make_tables", "walk"],
        ["make_tables", "walk", "table_gradients", "parameter_gradients"],
    ),
    "mimo_ssm": (
        ["make_tables", "chunk_states", "join", "chunk_outputs"],
        [
            *("make_tables", "chunk_states", "join", "chunk_outputs"),
            *("weight_gradients", "parameter_gradients"),
        ],
    ),
    "mimo_ssm: variable": (["_scan"], ["_adjoint"]),
    "joint_attention": (
        ["write_heads", "memory_pieces", "join_pieces", "attend"],
        [
            *("write_heads", "attend", "memory_pieces", "join_pieces", "z_gradients"),
            *("score_gradients", "head_gradients", "qk_gradients"),
        ],
    ),
    "sequence_norm": (
        ["_moments", "_merge", "_normalise"],
        ["_gradient_sums", "_add", "_gradients"],
    ),
    "dense_fsmn_memory": _dense_fsmn_memory(layers=3),
    "dense_fsmn_memory: one layer": _dense_fsmn_memory(layers=1),
    "dense_fsmn_memory: released": _dense_fsmn_memory(layers=2),
    "fsmn_memory": (["_outputs"], ["_inputs", "_taps"]),
    "fsmn_memory: causal": (["_outputs", "_last_rows"], ["_inputs", "_taps", "_first_rows"]),
    "fsmn_memory: causal, grouped": (
        ["_outputs", "_last_rows"],
        ["_inputs", "_taps", "_first_rows"],
    ),
}
each_spec = pytest.mark.parametrize("spec", testing.SPECS, ids=lambda spec: spec.name)


@pytest.mark.interpret
@each_spec
def test_launches(spec, monkeypatch):
    from triton.runtime.interpreter import GridExecutor

    launched, call = [], GridExecutor.__call__

    def counted(self, *args, **kwargs):
        launched.append(self.fn.__name__)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", counted)
    for case in spec.cases:
        forward, backward = LAUNCHES.get(f"{spec.name}: {case.name}", LAUNCHES[spec.name])
        launched.clear()
        solve(spec.op, Problem.draw(spec, case, 1, 3, dtype=case.dtypes[1]), backend="triton")
        assert launched == forward + backward, case.name


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [None, (30, 0, 70)], ids=["batch", "packed"])
@each_spec
def test_calls_can_be_captured_in_a_cuda_graph(spec, lengths):
    for case in spec.cases:
        dtype = case.dtypes[1]
        problem = Problem.draw(spec, case, 1, 100, dtype=dtype, device="cuda", lengths=lengths)
        arguments = {**problem.inputs, **case.options, "cu_seqlens": problem.cu_seqlens}
        want, _ = spec.op(**arguments)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got, _ = spec.op(**arguments)
        graph.replay()
        assert torch.equal(got, want), case.name
