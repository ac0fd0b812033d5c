# SPDX-License-Identifier: Apache-2.0
"""Script: converts SOURCE into OUT/1/ours, OUT/2/ours, ..., killed before the first, second, ...
file operation in there, until one lives to its end; prints how many were killed.
"""

import os
import signal
import sys
from pathlib import Path

from seqlib.models.convert import convert_checkpoint


def kill_at(folder: Path, left: int) -> None:
    """An audit hook sees every file that Python opens, renames or removes."""

    def hook(event, args):
        nonlocal left
        if event.startswith(("open", "os.")) and str(folder) in str(args):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    number = 0
    while True:
        number += 1
        out = Path(sys.argv[2]) / str(number)
        out.mkdir()
        child = os.fork()
        if child == 0:
            kill_at(out, number)
            convert_checkpoint(sys.argv[1], out / "ours")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
    assert status == 0
    sys.stdout.write(f"{number - 1}\n")
