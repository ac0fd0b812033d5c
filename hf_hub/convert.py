# SPDX-License-Identifier: Apache-2.0
"""Turn a published checkpoint into one of seqlib, or back.

    python hf_hub/convert.py mamba-130m-hf converted/mamba-130m
    python hf_hub/convert.py outputs/delta_net published/delta_net
    python hf_hub/convert.py MossFormer2_SS_16K converted/mossformer2-16k
    python hf_hub/convert.py outputs/speech_separation published/separation --layout standalone

What becomes of a checkpoint of flash-linear-attention, transformers or seqlib follows from its
config.json. One without is read as MossFormer2's: a file, or a folder as ClearerVoice, ModelScope
or the standalone release lay it out.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from seqlib.models.convert import convert_checkpoint, convert_mossformer2, export_mossformer2

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", type=Path, help="a checkpoint's folder or file")
    parser.add_argument("folder", type=Path, help="the checkpoint to make, new or empty")
    theirs = parser.add_argument_group("of MossFormer2, where no tensor tells")
    theirs.add_argument("--group_size", type=int, default=256, help="frames in a group")
    theirs.add_argument("--sample_rate", type=int, help="by default what the names say")
    theirs.add_argument("--mask_mode", choices=("multiply", "direct"), help="the same")
    theirs.add_argument("--layout", default="clearvoice", help="what ours is written as")
    chosen = parser.parse_args(arguments)
    try:
        written = _convert(chosen)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    logger.info("%s holds a %s model", chosen.folder, written)


def _convert(chosen: argparse.Namespace) -> str:
    config = chosen.source / "config.json"
    if config.is_file():
        found = json.loads(config.read_text("utf-8"))
        if isinstance(found, dict) and found.get("model_type") == "mossformer2":
            return export_mossformer2(chosen.source, chosen.folder, layout=chosen.layout)
        return convert_checkpoint(chosen.source, chosen.folder)
    return convert_mossformer2(
        chosen.source,
        chosen.folder,
        group_size=chosen.group_size,
        sample_rate=chosen.sample_rate,
        mask_mode=chosen.mask_mode,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
