# SPDX-License-Identifier: Apache-2.0
"""The shared ground floor: backends, threads, launch tables, 16-bit floats."""

import os
import threading

import numpy as np
import pytest
import torch
from seqlib_kernels import BackendUnavailableError, linear_scan, use_backend
from seqlib_kernels._core import threads
from seqlib_kernels._core.backend import resolve
from seqlib_kernels._core.launch import INTERPRETER, Launch, LaunchTable
from seqlib_kernels.testing import SPECS, Problem


def ran_kernels() -> bool:
    """Whether an op went through its operators, which the reference does not."""
    x = torch.ones(1, 2, 3, requires_grad=True)
    h, _ = linear_scan(x, x)
    return h.grad_fn.name() == "_LinearScanBackward"


def test_cpu_tensors_run_the_cpu_kernels():
    assert ran_kernels()
    assert resolve(torch.ones(1), None) == "cpu"


def test_use_backend_holds_inside_the_block_only():
    with use_backend("reference"):
        assert not ran_kernels()
        with use_backend("cpu"):
            assert ran_kernels()
        assert not ran_kernels()
    assert ran_kernels()


def test_use_backend_ends_with_an_error():
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert ran_kernels()


def test_a_named_backend_wins():
    with use_backend("reference"):
        assert resolve(torch.ones(1), "cpu") == "cpu"


def test_unknown_backend():
    with (
        pytest.raises(ValueError, match=r"backend must be one of .* got 'eager'"),
        use_backend("eager"),
    ):
        pass


def test_triton_on_cpu_tensors_needs_the_interpreter():
    x = torch.ones(1, 2, 3)
    with pytest.raises(BackendUnavailableError, match="TRITON_INTERPRET=1"):
        linear_scan(x, x, backend="triton")
    with use_backend("triton"), pytest.raises(BackendUnavailableError, match="TRITON_INTERPRET=1"):
        linear_scan(x, x)


def test_cpu_kernels_refuse_other_devices():
    with pytest.raises(BackendUnavailableError, match="'meta'"):
        resolve(torch.ones(1, device="meta"), "cpu")


def test_other_devices_get_the_reference():
    assert resolve(torch.ones(1, device="meta"), None) == "reference"


def test_split_covers_every_job_once():
    for jobs in (0, 1, 5, 8):
        for count in (1, 3, 20):
            seen = []
            threads.split(lambda i, j, seen=seen: seen.extend(range(i, j)), jobs, count)
            assert sorted(seen) == list(range(jobs))


def test_split_runs_side_by_side():
    barrier = threading.Barrier(2, timeout=20)
    threads.split(lambda i, j: barrier.wait(), 2, 2)


def test_split_does_itself_what_no_thread_begins():
    gate, pool, seen = threading.Event(), threads._pool(os.getpid()), []
    busy = [pool.submit(gate.wait, 20) for _ in range(os.cpu_count() or 1)]
    try:
        threads.split(lambda i, j: seen.extend(range(i, j)), 5, 3)
        assert seen == [0, 1, 2, 3, 4]
    finally:
        gate.set()
        for other in busy:
            other.result()


def test_split_passes_errors_on():
    def work(first, last):
        if last == 4:
            raise KeyError(first)

    with pytest.raises(KeyError, match="2"):
        threads.split(work, 4, 2)


# A forked child inherits a pool whose threads do not exist in it. Python warns about any fork
# beside threads; this one only computes and leaves.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_split_works_in_a_forked_child():
    threads.split(lambda i, j: None, 2, 2)
    child = os.fork()
    if child == 0:
        seen = []
        threads.split(lambda i, j: seen.append(i), 2, 2)
        os._exit(0 if len(seen) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_follow_torch_and_the_amount_of_work():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert threads.count(10) == 1
        assert threads.count(1 << 30) == 3
    finally:
        torch.set_num_threads(before)


# Forward and backward, at most. All rows of mimo_ssm meet in its states: there is a product of rows
# before its scan and one behind it, one that sums over them, and what a rate per token adds. A norm
# needs its sums first, and so does every layer of a dense memory, here three, beside a convolution.
# joint_attention opens one for every group, here twenty, between two products.
REGIONS = {
    "mimo_ssm": (3, 6),
    "sequence_norm": (2, 2),
    "dense_fsmn_memory": (7, 6),
    "joint_attention": (20, 20),
}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_each_pass_of_an_op_opens_few_parallel_regions(spec, monkeypatch):
    """Threads that meet often are slower than none on busy cores."""
    forward, backward = REGIONS.get(spec.name, (1, 1))
    split, regions = threads.split, []

    def counting_split(work, jobs, count):
        regions.append(count)
        split(work, jobs, count)

    monkeypatch.setattr(threads, "split", counting_split)
    monkeypatch.setattr(threads, "count", lambda *_, **__: 2)
    for case in spec.cases:
        problem = Problem.draw(spec, case, 2, 40, dtype=case.dtypes[1])
        inputs = {name: x.requires_grad_() for name, x in problem.inputs.items()}
        output, _ = spec.op(**inputs, **case.options)
        assert 0 < len(regions) <= forward, case.name
        regions.clear()
        output.backward(problem.output_grad)
        assert 0 < len(regions) <= backward, case.name
        regions.clear()


def row(arch, itemsize, width) -> Launch:
    return Launch(arch=arch, itemsize=itemsize, width=width, tiles={"BT": width})


TABLE = LaunchTable(
    (row("sm_90", 2, 64), row("sm_90", 2, 128), row("sm_90", 4, 64), row("gfx942", 4, 32)),
    default="sm_90",
)


def test_launch_rows_by_size():
    half, single = torch.ones(1).half(), torch.ones(1)
    assert TABLE.pick(half, 64) is TABLE.rows[0]
    assert TABLE.pick(half, 65) is TABLE.rows[1]
    assert TABLE.pick(half, 1000) is TABLE.rows[1]
    assert TABLE.pick(single, 8) is TABLE.rows[2]
    assert TABLE.pick(single.double(), 8) is TABLE.rows[2]
    assert TABLE.pick(torch.ones(1, dtype=torch.complex64), 8) is TABLE.rows[2]


def test_launch_rows_by_device():
    own = LaunchTable((*TABLE.rows, row(INTERPRETER, 4, 16)), default="sm_90")
    assert own.pick(torch.ones(1), 8) is own.rows[-1]
    assert own.rows_of(INTERPRETER) == own.rows[-1:]
    assert TABLE.rows_of(INTERPRETER) == TABLE.rows[:3]


def test_launch_rows_serve_the_nearest_size():
    assert TABLE.serving("sm_90", 2) == TABLE.rows[:2]
    assert TABLE.serving("sm_90", 8) == TABLE.rows[2:3]
    assert TABLE.serving("gfx942", 2) == TABLE.rows[3:]
    assert TABLE.serving("sm_120", 4) == TABLE.rows[2:3]


def test_forced_launch_row():
    with TABLE.forced(TABLE.rows[3]):
        assert TABLE.pick(torch.ones(1), 8) is TABLE.rows[3]
    assert TABLE.pick(torch.ones(1), 8) is TABLE.rows[2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_sixteen_bit_floats_round_as_in_torch(dtype):
    from numba import njit
    from seqlib_kernels._core.lowp import array, narrow, widen

    @njit
    def round_trip(x, stored, back):
        for i in range(x.shape[0]):
            stored[i] = narrow(x[i], stored[i])
            back[i] = widen(stored[i])

    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    between = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)) * 3
    ties = (every.float() + every.roll(-1).float()) / 2
    x = torch.cat([every.float(), ties, between, torch.tensor([1e30, -1e30, 1e-30, 3e38])])
    stored, back = torch.empty(len(x), dtype=dtype), np.empty(len(x), np.float32)
    round_trip(x.numpy(), array(stored), back)
    torch.testing.assert_close(stored, x.to(dtype), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(
        torch.from_numpy(back), stored.float(), rtol=0, atol=0, equal_nan=True
    )
