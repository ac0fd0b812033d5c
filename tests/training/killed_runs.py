# SPDX-License-Identifier: Apache-2.0
"""Script: one killed training per word `KIND:PLACE`, each in OUT/<word>; prints what was killed.

`step:7` kills at the end of step 7, `file:K` before the K-th file operation below the run's
folder after step 5, `half:NAME` when half of the file NAME of the second save is written.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
tiny_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny_run)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class KillAtStep(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            die()


class KillAtFile(TrainerCallback):
    """An audit hook sees every file that Python opens, renames or removes."""

    def __init__(self, folder, number):
        self.folder, self.left, self.armed = str(folder), number, False
        sys.addaudithook(self.hook)

    def on_step_begin(self, args, state, control, **kwargs):
        self.armed = state.global_step == 5

    def hook(self, event, args):
        if self.armed and event.startswith(("open", "os.")) and self.folder in str(args):
            self.left -= 1
            if self.left == 0:
                die()


def half_written(name):
    save, seen = torch.save, []

    def half(obj, path, *args, **kwargs):
        save(obj, path, *args, **kwargs)
        if str(path).endswith(name):
            seen.append(path)
            if len(seen) == 2:
                os.truncate(path, os.path.getsize(path) // 2)
                die()

    torch.save = half


if __name__ == "__main__":
    for word in sys.argv[2:]:
        out = Path(sys.argv[1]) / word
        kind, place = word.split(":")
        child = os.fork()
        if child == 0:
            callbacks = []
            if kind == "step":
                callbacks = [KillAtStep(int(place))]
            elif kind == "file":
                callbacks = [KillAtFile(out, int(place))]
            else:
                half_written(place)
            tiny_run.train(out, callbacks=callbacks)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        end = os.WTERMSIG(status) if os.WIFSIGNALED(status) else "finished"
        sys.stdout.write(f"{word} {end}\n")
