# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that exist whole or not at all, and that only continue the model they belong to."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint

from seqlib.models.whole_folder import move_into_place

STATE_FILE = "trainer_state.json"

# Without any of these transformers would go on, but elsewhere than where the run stopped.
_PARTS = {
    "scheduler.pt": ["scheduler.pt"],
    "rng_state.pth": ["rng_state*.pth"],  # one for each rank
    "optimizer.pt": ["optimizer*", "global_step*"],  # whole, in shards, and DeepSpeed's
}

# What may differ between a model and the checkpoint that it continues.
_VOLATILE = {"transformers_version", "dtype", "use_cache", "architectures", "_name_or_path"}


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or does not continue the run that asked for it."""


def staging(output_dir: str | Path) -> Path:
    """Where the next checkpoint of a run grows; nothing looks for checkpoints there."""
    return Path(output_dir) / ".incomplete"


def clear_staging(output_dir: str | Path) -> None:
    """Remove what a save left that did not live to its end."""
    shutil.rmtree(staging(output_dir), ignore_errors=True)
    staging(output_dir).mkdir(parents=True)


@contextmanager
def clear_errors(output_dir: str | Path) -> Iterator[None]:
    """Turn whatever stops a save into one error that says what is still there.

    The unfinished files are removed, which gives a full disk its room back.

    Raises:
        CheckpointError: with the cause, the last good checkpoint and the space left.
    """
    try:
        yield
    except Exception as error:
        shutil.rmtree(staging(output_dir), ignore_errors=True)
        raise CheckpointError(
            f"no checkpoint was saved in {output_dir}: {error} (disk space left: "
            f"{shutil.disk_usage(output_dir).free / 2**20:.0f} MiB; last good checkpoint: "
            f"{last_checkpoint(output_dir) or 'none'})"
        ) from error


@contextmanager
def reading(checkpoint: str | Path | None) -> Iterator[None]:
    """Turn whatever stops a load into one error that names the checkpoint.

    Raises:
        CheckpointError: with the cause.
    """
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint} can't be loaded ({type(error).__name__}: {error}): delete it to go on "
            "from the one before it"
        ) from error


def publish(folder: Path, destination: Path) -> None:
    """Give the finished `folder` its name, once all of its bytes are on the disk."""
    # one may be there from a run whose later checkpoints were deleted by hand
    move_into_place(folder, destination, over=True)
    folder.parent.rmdir()


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The checkpoint of the latest step in `output_dir`, or None."""
    if not Path(output_dir).is_dir():
        return None
    last = get_last_checkpoint(str(output_dir))
    return None if last is None else Path(last)


def check_belongs(
    checkpoint: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Hold `checkpoint` to the architecture and the vocabulary of what is about to be trained.

    Raises:
        CheckpointError: not a checkpoint, or one of another model or tokenizer; says what differs.
    """
    for name in ("config.json", STATE_FILE):
        if not (checkpoint / name).is_file():
            raise CheckpointError(f"{checkpoint} is no checkpoint to resume from: it has no {name}")
    with reading(checkpoint):
        theirs = dict(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    ours = json.loads(model.config.to_json_string(use_diff=False))
    if theirs.get("model_type") != ours["model_type"]:
        raise CheckpointError(
            f"{checkpoint} holds a {theirs.get('model_type')!r} model, not the "
            f"{ours['model_type']!r} that is to be trained"
        )
    shared = (theirs.keys() & ours.keys()) - _VOLATILE
    differences = [
        f"{name} is {theirs[name]!r} there and {ours[name]!r} here"
        for name in sorted(shared)
        if theirs[name] != ours[name]
    ]
    if differences:
        raise CheckpointError(f"{checkpoint} holds another model: {'; '.join(differences)}")
    if tokenizer is not None:
        _check_vocabulary(checkpoint, tokenizer)


def check_whole(checkpoint: Path) -> None:
    """Hold `checkpoint` to having all that a run needs to go on exactly where it was.

    Raises:
        CheckpointError: says what is missing.
    """
    missing = [
        part
        for part, patterns in _PARTS.items()
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns)
    ]
    if missing:
        raise CheckpointError(f"{checkpoint} can't be resumed: it has no {', '.join(missing)}")


def _check_vocabulary(checkpoint: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    try:
        theirs = AutoTokenizer.from_pretrained(checkpoint).get_vocab()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} has no tokenizer to compare with: {error}") from error
    ours = tokenizer.get_vocab()
    if theirs != ours:
        raise CheckpointError(
            f"{checkpoint} was trained with another tokenizer: {len(theirs)} tokens there and "
            f"{len(ours)} here, {len(theirs.items() & ours.items())} with the same text and id"
        )
