# SPDX-License-Identifier: Apache-2.0
"""Every installed peer computes the op, outputs and gradients, on a length that fits badly."""

import importlib.util

import pytest
import torch

from bench import gate
from bench.device import ignore_mark
from bench.oracle import solve
from bench.peers import CONTENDERS
from bench.workloads import Workload, load_spec, make_problem

SCAN = [("real", {"D": 5})]
DELTA = [
    (case, {"H": 2, "HV": 4, "K": 8, "V": 6}) for case in ("plain", "gated", "signed", "product")
]
SELECTIVE = [(case, {"D": 6, "N": 3, "G": 2}) for case in ("plain", "mixer", "grouped")]
SSD = [(case, {"H": 4, "G": 2, "P": 5, "N": 3}) for case in ("positive", "negative", "alpha")]
CASES = {
    "linear_scan": SCAN,
    "delta_rule": DELTA,
    "selective_scan": SELECTIVE,
    "ssd": SSD,
    "diagonal_ssm": [("zoh", {"H": 3, "M": 4})],
    "mimo_ssm": [("zoh", {"H": 3, "P": 4})],
    "fsmn_memory": [
        ("both sides", {"C": 3, "J": 1, "W": 7}),
        ("projection", {"C": 3, "J": 1, "W": 7}),
        ("grouped", {"C": 3, "J": 2, "W": 7}),
        ("causal", {"C": 3, "J": 1, "W": 4}),
    ],
    "dense_fsmn_memory": [
        ("one layer", {"C": 3, "W": 7, "depth": 1}),
        ("released", {"C": 4, "W": 7, "depth": 2}),
        ("three layers", {"C": 4, "W": 5, "depth": 3}),
    ],
    "sequence_norm": [("sequence", {"C": 3}), ("per channel", {"C": 3})],
    "joint_attention": [
        ("local", {"E": 3, "S": 6}),
        ("causal", {"E": 3, "S": 6}),
        ("released", {"E": 3, "S": 34}),
    ],
}

# What some peer can't do; every other case is done by all.
BEYOND = {"signed", "mixer", "grouped", "negative", "alpha", "causal"}

# Compiled peers run the same functions; compiling them takes longer than all of this.
INSTALLED = [
    (op, contender, case, dims)
    for op, cases in CASES.items()
    for contender in CONTENDERS[op]
    if contender.device != "cuda" and not contender.compiled
    if importlib.util.find_spec(contender.module) is not None
    for case, dims in cases
]


@pytest.mark.parametrize(
    ("op", "contender", "case", "dims"), INSTALLED, ids=lambda x: getattr(x, "name", str(x))
)
def test_peers_compute_the_op(op, contender, case, dims):
    """Measured: at most 3e-6 for every peer."""
    T = 21 if op == "linear_scan" else 70  # chunks have 64 rows; jax unrolls its scan by length
    workload = Workload(op=op, case=case, B=2, T=T, dims=dims)
    problem = make_problem(workload, load_spec(op), torch.device("cpu"))
    why_not = contender.problem_with(problem)
    if why_not is not None:
        assert case in BEYOND or why_not.startswith("this version"), why_not
        return
    want = solve(problem)
    call = contender.prepare(problem)
    errors = gate.errors(call.result(call.training(ignore_mark)), want, problem.case.constants)
    errors["inference"] = gate.error(call.output(call.forward()), want.output)
    assert max(errors.values()) < 1e-5, errors
