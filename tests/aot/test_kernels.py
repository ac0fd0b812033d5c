# SPDX-License-Identifier: Apache-2.0
"""Every launch row compiles for its devices without a GPU, without spills, within shared memory.

The ordinary run compiles the commonest dtype of each row with every option on; on archs that
have no rows of their own, rows of 16-bit inputs alone. `SEQLIB_AOT=full` compiles every dtype and
variant for every arch; it takes several times as long.
"""

import os

import pytest
import torch
from aot_families import FAMILIES
from aot_offline import SHARED, compiling_for

pytestmark = pytest.mark.aot
FULL = os.environ.get("SEQLIB_AOT", "") == "full"


def ordinary(row, arch: str, dtype: torch.dtype, variant: str) -> bool:
    """Whether the ordinary run compiles this."""
    common = variant == "full" and dtype != torch.float16
    return common and (row.arch == arch or row.itemsize == 2)


def combinations():
    for name, family in FAMILIES.items():
        for arch in SHARED:
            for row in family.rows(arch):
                for dtype in family.dtypes[row.itemsize]:
                    for variant, options in family.variants.items():
                        if FULL or ordinary(row, arch, dtype, variant):
                            kind = str(dtype).removeprefix("torch.")
                            label = f"{name} {arch} up to {row.width}, {kind}, {variant}"
                            yield pytest.param(family, arch, row, dtype, options, id=label)


@pytest.mark.parametrize(("family", "arch", "row", "dtype", "options"), list(combinations()))
def test_launch_row(family, arch, row, dtype: torch.dtype, options, record_property):
    with family.table.forced(row), compiling_for(arch) as kernels:
        family.run(dtype, row.width, **options)
    assert kernels
    for kernel in kernels:
        record_property("kernel", str(kernel))
    assert not [str(k) for k in kernels if k.spilled], "registers spill into memory"
    limit = SHARED[arch]
    assert not [str(k) for k in kernels if k.shared > limit], f"more than {limit} bytes shared"
