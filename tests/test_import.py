# SPDX-License-Identifier: Apache-2.0
"""What `import seqlib` brings with it."""

import subprocess
import sys

LATER = ("numba", "datasets", "matplotlib", "sentencepiece", "tensorboard", "rich", "pandas", "jax")


def test_packages_that_models_do_not_need_are_imported_when_they_are_used():
    """Beyond transformers, which registration needs, 0.1 s of its own files on one core."""
    program = f"""
        import sys
        from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
        import transformers.modeling_layers  # brings soundfile where that is installed
        before = {{name.split(".")[0] for name in sys.modules}}
        import seqlib
        new = {{name.split(".")[0] for name in sys.modules}} - before
        print(*sorted(new - set(sys.stdlib_module_names)))
        print(*sorted({set(LATER)} & sys.modules.keys()))
    """.replace("\n        ", "\n")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "seqlib seqlib_kernels\n\n"
    assert done.stderr == ""
