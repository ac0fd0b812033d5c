# SPDX-License-Identifier: Apache-2.0
"""Importing seqlib_kernels is cheap, changes nothing, and needs neither Triton nor numba."""

import os
import subprocess
import sys
import textwrap


def python(program: str) -> str:
    """The output of a program run by a fresh interpreter, without the tests' settings."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_cheap_and_changes_nothing():
    """Its cost beyond torch is its own few files: it loads no other package, nor the compiler."""
    program = """
        import logging, os, sys, warnings
        import torch

        def state():
            return {
                "environment": dict(os.environ),
                "random": torch.get_rng_state().tolist(),
                "dtype": torch.get_default_dtype(),
                "threads": torch.get_num_threads(),
                "grad": torch.is_grad_enabled(),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "precision": torch.get_float32_matmul_precision(),
                "tf32": torch.backends.cuda.matmul.allow_tf32,
                "cuda": torch.cuda.is_initialized(),
                "handlers": list(logging.getLogger().handlers),
                "warnings": list(warnings.filters),
            }

        before, modules = state(), set(sys.modules)
        import seqlib_kernels
        after, new = state(), set(sys.modules) - modules
        assert before == after, [n for n in before if before[n] != after[n]]
        assert not any(n.startswith(("torch._dynamo", "torch._inductor")) for n in new)
        packages = {n.split(".")[0] for n in new}
        print(*sorted(packages - set(sys.stdlib_module_names) - {"torch"}))
    """
    assert python(program) == "seqlib_kernels\n"


def test_works_without_triton_and_numba():
    program = """
        import sys
        sys.modules["triton"] = sys.modules["numba"] = None
        import torch
        import seqlib_kernels as sk

        x = torch.rand(2, 5, 3, requires_grad=True)
        want, _ = sk.linear_scan(x, x, backend="reference")
        try:
            sk.linear_scan(x, x, backend="triton")
        except sk.BackendUnavailableError as error:
            print(error)
        del sys.modules["numba"]
        h, _ = sk.linear_scan(x, x)
        h.sum().backward()
        assert torch.allclose(h, want) and x.grad.isfinite().all()
    """
    expected = "backend 'triton' was asked for, but Triton is not installed"
    assert python(program).startswith(expected)
