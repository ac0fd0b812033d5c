# SPDX-License-Identifier: Apache-2.0
"""The tensors of a checkpoint: where they are, and whether they are what a model needs."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..lm import SeqLMConfig, SeqLMForCausalLM
from .family import ConversionError, Family

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
STORED_DTYPES = {"F64", "F32", "F16", "BF16"}

# Names of old files and what transformers itself reads them as.
RENAMED = {"backbone.embedding.weight": "backbone.embeddings.weight"}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: the file, its name there and its shape."""

    file: str
    key: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Move:
    """A tensor to write: its new name, where it comes from, and which half of that, if any."""

    name: str
    source: Stored
    half: int | None = None


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint in `folder`, by name; no values are read.

    Raises:
        OSError: no safetensors file, one that an index names and that isn't there, or a damaged
            one.
        ConversionError: a dtype that holds no plain weights, or a name in two files.
    """
    found: dict[str, Stored] = {}
    for file in _files(folder):
        with _opened(folder / file) as handle:
            keys: list[str] = list(handle.keys())
            for key in keys:
                part = handle.get_slice(key)
                name = RENAMED.get(key, key)
                if part.get_dtype() not in STORED_DTYPES:
                    known = ", ".join(sorted(STORED_DTYPES))
                    raise ConversionError(
                        f"{key} must have one of the dtypes {known}, got {part.get_dtype()}"
                    )
                if name in found:
                    raise ConversionError(f"{name} is in {found[name].file} and again in {file}")
                found[name] = Stored(file, key, tuple(part.get_shape()))
    return found


def plan(
    folder: Path, stored: dict[str, Stored], config: SeqLMConfig, family: Family, ours: bool
) -> list[Move]:
    """What has to be written, once the checkpoint has every tensor and nothing else.

    Args:
        config: ours, of the model that both sides are.
        ours: `stored` has our names and theirs are written, or the other way round.

    Raises:
        ConversionError: tensors that are missing, superfluous or of another shape; the message
            says what was expected.
    """
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in SeqLMForCausalLM(config).state_dict().items()}
    names = {(name if ours else family.their_name(name)): name for name in shapes}
    expected = {theirs: shapes[name] for theirs, name in names.items()}
    if config.tie_word_embeddings:
        del expected[HEAD]
        if HEAD in stored:
            embedding = next(theirs for theirs, name in names.items() if name == EMBEDDING)
            _check_tied(folder, stored, embedding)
            stored = {name: where for name, where in stored.items() if name != HEAD}
    merged = [] if ours else _merged(stored, expected)
    for gate in merged:
        up = gate.replace("gate_proj", "up_proj")
        expected[gate] = (2 * expected[gate][0], expected[gate][1])
        del expected[up]

    _check_names(stored, expected)
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise ConversionError(
                f"{name} must have shape {shape} by the configuration, got {stored[name].shape}"
            )
    moves = []
    for name, source in stored.items():
        new = family.their_name(names[name]) if ours else names[name]
        if name in merged:
            moves.append(Move(new, source, half=0))
            moves.append(Move(new.replace("gate_proj", "up_proj"), source, half=1))
        else:
            moves.append(Move(new, source))
    return moves


def write_tensors(source: Path, folder: Path, moves: Iterable[Move]) -> None:
    """Write `moves` into files of the same names as those they come from, one at a time."""
    files: dict[str, list[Move]] = {}
    for move in moves:
        files.setdefault(move.source.file, []).append(move)
    size, where = 0, {}
    for file, here in files.items():
        with _opened(source / file) as handle:
            tensors = {move.name: _taken(handle.get_tensor(move.source.key), move) for move in here}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        size += sum(tensor.nbytes for tensor in tensors.values())
        where |= dict.fromkeys(tensors, file)
    if set(files) != {WEIGHTS}:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _taken(tensor: Tensor, move: Move) -> Tensor:
    return tensor if move.half is None else tensor.chunk(2)[move.half].contiguous()


def _files(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"{folder} must hold {WEIGHTS}, or {INDEX} and the files it names; load a checkpoint "
            "in another format with the library that wrote it and save it again"
        )
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConversionError(f"{folder / INDEX} is no index of weights: {error!r}") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / INDEX} names {name!r}, which is not beside it")
    return names


@contextmanager
def _opened(path: Path) -> Iterator:
    try:
        with safe_open(path, "pt") as handle:
            yield handle
    except SafetensorError as error:
        raise OSError(f"{path} is damaged or incomplete ({error}); get it again") from error


def _merged(stored: dict[str, Stored], expected: dict[str, tuple[int, ...]]) -> list[str]:
    """The gates of MLPs that hold gate and up in one, as files of 2024 and before do."""
    gates = [name for name in expected if name.endswith(".mlp.gate_proj.weight")]
    if any(name.replace("gate_proj", "up_proj") in stored for name in gates):
        return []
    return [g for g in gates if g in stored and stored[g].shape[0] == 2 * expected[g][0]]


def _check_tied(folder: Path, stored: dict[str, Stored], embedding: str) -> None:
    if embedding not in stored:
        return  # reported as missing
    both = []
    for name in (HEAD, embedding):
        with _opened(folder / stored[name].file) as handle:
            both.append(handle.get_tensor(stored[name].key))
    if not torch.equal(*both):
        raise ConversionError(
            f"{HEAD} must equal {embedding} with tie_word_embeddings=True, got different values"
        )


def _check_names(stored: Iterable[str], expected: Iterable[str]) -> None:
    missing, superfluous = sorted({*expected} - {*stored}), sorted({*stored} - {*expected})
    if not missing and not superfluous:
        return
    parts = []
    for word, names in (("lacks", missing), ("must not hold", superfluous)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            parts.append(f"{word} {', '.join(names[:5])}{more}")
    raise ConversionError(f"by its configuration the checkpoint {' and '.join(parts)}")
