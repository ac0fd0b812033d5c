# SPDX-License-Identifier: Apache-2.0
"""Turn a checkpoint of flash-linear-attention or transformers into one of seqlib, or back.

    python hf_hub/convert.py mamba-130m-hf converted/mamba-130m
    python hf_hub/convert.py outputs/delta_net published/delta_net

What becomes of a checkpoint follows from its config.json.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from seqlib.models.convert import convert_checkpoint

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", type=Path, help="config.json and safetensors files")
    parser.add_argument("folder", type=Path, help="the checkpoint to make, new or empty")
    chosen = parser.parse_args(arguments)
    try:
        written = convert_checkpoint(chosen.source, chosen.folder)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    logger.info("%s holds a %s model", chosen.folder, written)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
