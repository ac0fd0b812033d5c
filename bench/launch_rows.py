# SPDX-License-Identifier: Apache-2.0
"""Launch rows as values that a search changes, and as text to paste."""

from collections.abc import Mapping
from dataclasses import replace

from seqlib_kernels._core.launch import Launch

Change = Mapping[str, int]
OPTIONS = ("num_warps", "num_stages")
LINE = 100


def changed(row: Launch, change: Change, kernel: str = "") -> Launch:
    """`row` with a change for all kernels or for one, without options that say nothing."""
    if kernel:
        own = {**row.per_kernel.get(kernel, {}), **change}
        row = replace(row, per_kernel={**row.per_kernel, kernel: own})
    else:
        tiles = {name: value for name, value in change.items() if name not in OPTIONS}
        options = {name: change[name] for name in OPTIONS if name in change}
        row = replace(row, tiles={**row.tiles, **tiles}, **options)
    common = {**row.tiles, "num_warps": row.num_warps, "num_stages": row.num_stages}
    per_kernel = {}
    for name, own in row.per_kernel.items():
        # "forward_sweep split" is a form of "forward_sweep" and stands over its options
        above = {**common, **row.per_kernel.get(name.split(" ")[0], {})} if " " in name else common
        telling = {option: value for option, value in own.items() if above.get(option) != value}
        if telling:
            per_kernel[name] = telling
    return replace(row, per_kernel=per_kernel)


def text(row: Launch, indent: int = 8) -> str:
    """The Python text of a row, formatted as where `indent` spaces stand before it."""
    words = [f"arch={_quoted(row.arch)}", f"itemsize={row.itemsize}", f"width={_width(row.width)}"]
    words.append(f"tiles={_mapping(row.tiles)}")
    defaults = Launch(arch="", itemsize=0, width=0, tiles={})
    telling = (n for n in OPTIONS if getattr(row, n) != getattr(defaults, n))
    words += [f"{name}={getattr(row, name)}" for name in telling]
    kernels = [f"{_quoted(name)}: {_mapping(own)}" for name, own in row.per_kernel.items()]
    if kernels:
        words.append(f"per_kernel={{{', '.join(kernels)}}}")
    line = f"Launch({', '.join(words)})"
    if indent + len(line) < LINE:  # a comma follows
        return line
    if kernels and indent + 4 + len(words[-1]) >= LINE:
        inner = "\n".join(f"        {kernel}," for kernel in kernels)
        words[-1] = f"per_kernel={{\n{inner}\n    }}"
    inner = "\n".join(f"    {word}," for word in words)
    return f"Launch(\n{inner}\n)"


def _quoted(name: str) -> str:
    """A name in double quotes, as the formatter writes it."""
    return f'"{name}"'


def _mapping(values: Mapping[str, int]) -> str:
    return f"{{{', '.join(f'{_quoted(name)}: {value}' for name, value in values.items())}}}"


def _width(width: int) -> str:
    """Widths that stand for any are written as the tables write them."""
    any_width = width > 4096 and width.bit_count() == 1
    return f"1 << {width.bit_length() - 1}" if any_width else str(width)


def difference(row: Launch, other: Launch) -> str:
    """What `row` has otherwise than `other`, in a few words."""
    parts = [f"{n}={v}" for n, v in row.tiles.items() if other.tiles.get(n) != v]
    parts += [f"{n}={getattr(row, n)}" for n in OPTIONS if getattr(row, n) != getattr(other, n)]
    for kernel in sorted({*row.per_kernel, *other.per_kernel}):
        own = row.per_kernel.get(kernel, {})
        if own != other.per_kernel.get(kernel, {}):
            words = " ".join(f"{n}={v}" for n, v in own.items())
            parts.append(f"{kernel}: {words or 'as all'}")
    return ", ".join(parts) or "the same"
