# SPDX-License-Identifier: Apache-2.0
"""Loads a checkpoint that carries its code where no seqlib, numba or Triton can be imported.

    python -P without_seqlib.py CHECKPOINT OUTPUT_FOLDER

Prints what it found as JSON; logits go to OUTPUT_FOLDER/logits.pt.
"""

import json
import sys
from pathlib import Path

HIDDEN = ("seqlib", "seqlib_kernels", "numba", "llvmlite", "triton")


class Hiding:
    """A finder that does not find what is hidden."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
for package in HIDDEN:
    try:
        __import__(package)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{package} can still be imported")

import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

folder, out = sys.argv[1], Path(sys.argv[2])
trusting = {"trust_remote_code": True}
tokenizer = AutoTokenizer.from_pretrained(folder, **trusting)
ids = torch.tensor([tokenizer("abcabcab")["input_ids"]])
model = AutoModelForCausalLM.from_pretrained(folder, **trusting)
logits = model(ids).logits
torch.save(logits, out / "logits.pt")

greedy = {"max_new_tokens": 6, "do_sample": False}
classifier = AutoModelForSequenceClassification.from_pretrained(folder, **trusting)
model.save_pretrained(out / "saved")
classifier.save_pretrained(out / "saved_twice")
saved = AutoModelForCausalLM.from_pretrained(out / "saved", **trusting)
heads = [
    auto.from_pretrained(out / "saved_twice", **trusting)
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification)
]
loss = model(ids, labels=ids).loss
loss.backward()
sys.stdout.write(
    json.dumps(
        {
            "generated": model.generate(ids, **greedy).tolist(),
            "generated without cache": model.generate(ids, use_cache=False, **greedy).tolist(),
            "saved differs by": (saved(ids).logits - logits).abs().max().item(),
            "config": type(AutoConfig.from_pretrained(folder, **trusting)).__name__,
            "own config class": type(model.config) is type(model).config_class,
            "classes": [type(m).__name__ for m in (model, classifier, *heads)],
            "gradients": all(p.grad is not None for p in model.parameters()),
        }
    )
)
