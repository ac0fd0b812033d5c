# SPDX-License-Identifier: Apache-2.0
"""The project's pages, and the code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("bench", "hf_hub", "kernels", "recipes")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(p for f in FOLDERS for p in sorted((ROOT / f).rglob("*.md"))),
]


def name(page: Path) -> str:
    """A page's path below the root."""
    return page.relative_to(ROOT).as_posix()


def code(page: Path) -> list[str]:
    """The code in a page: lines of blocks, fenced or indented, and what stands in backticks."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += re.findall(r"^    +(.*)", rest, re.MULTILINE)
    return [*lines, *re.findall(r"`([^`]+)`", rest)]
