# SPDX-License-Identifier: Apache-2.0
"""Where the public corpora of mixtures keep what: WSJ0-mix, LibriMix, WHAM!, WHAMR!."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from .items import MixtureItem

WSJ0_SUBSETS = {"train": "tr", "validation": "cv", "test": "tt"}
LIBRI_SUBSETS = {"train": "train-360", "validation": "dev", "test": "test"}
KINDS = ("clean", "both", "single")
Root = str | os.PathLike[str]


def wsj0_mix(
    root: Root,
    subset: str,
    *,
    num_speakers: int = 2,
    sampling_rate: int = 8000,
    mode: str = "min",
) -> list[MixtureItem]:
    """WSJ0-2mix and WSJ0-3mix: ROOT/2speakers/wav8k/min/tr/{mix,s1,s2}/NAME.wav.

    Args:
        root: the folder of `2speakers`, or of `wav8k` where that folder is left out.
        subset: the name of a folder (tr, cv, tt), or "train", "validation", "test".
        mode: "min" or "max".

    Raises:
        ValueError: a folder is missing or empty, or a mixture has no source of its name.
    """
    base = Path(root)
    if (base / f"{num_speakers}speakers").is_dir():
        base = base / f"{num_speakers}speakers"
    base = base / _rate(sampling_rate) / mode / WSJ0_SUBSETS.get(subset, subset)
    return _same_names(base, "mix", [f"s{i + 1}" for i in range(num_speakers)])


def libri_mix(
    root: Root,
    subset: str,
    *,
    num_speakers: int = 2,
    sampling_rate: int = 8000,
    mode: str = "min",
    kind: str = "clean",
) -> list[MixtureItem]:
    """Libri2Mix and Libri3Mix: ROOT/Libri2Mix/wav8k/min/train-360/{mix_clean,s1,s2,noise}/NAME.wav.

    Args:
        root: the folder of `Libri2Mix`, or that folder itself.
        subset: the name of a folder, or "train" (train-360), "validation" (dev), "test".
        mode: "min" or "max".
        kind: "clean", "both" (with noise), or "single" (the first speaker with noise).

    Raises:
        ValueError: an unknown kind, a folder is missing or empty, or a mixture lacks a source.
    """
    base = Path(root)
    if (base / f"Libri{num_speakers}Mix").is_dir():
        base = base / f"Libri{num_speakers}Mix"
    base = base / _rate(sampling_rate) / mode / LIBRI_SUBSETS.get(subset, subset)
    return _with_noise(base, kind, num_speakers)


def libri_mix_list(file: Root) -> list[MixtureItem]:
    """LibriMix by one of its CSV files: METADATA/mixture_train-360_mix_clean.csv.

    Paths that don't exist, as lists made on another machine hold them, are looked for by their
    last three parts (train-360/s1/NAME.wav) beside the folder of the list.

    Raises:
        ValueError: a column is missing, or the list is empty.
    """
    path = Path(file)
    with path.open(newline="", encoding="utf-8") as stream:
        table = csv.DictReader(stream)
        columns = table.fieldnames or []
        sources = sorted(c for c in columns if c.startswith("source_") and c.endswith("_path"))
        if "mixture_path" not in columns or not sources:
            raise ValueError(
                f"{path} must have the columns mixture_path and source_1_path, ..., "
                f"it has {', '.join(columns) or 'none'}"
            )
        items = [
            MixtureItem(
                row.get("mixture_ID") or Path(row["mixture_path"]).stem,
                _found(path, row["mixture_path"]),
                tuple(_found(path, row[s]) for s in sources),
                _found(path, row["noise_path"]) if row.get("noise_path") else None,
            )
            for row in table
        ]
    if not items:
        raise ValueError(f"{path} must hold at least one mixture, it has none")
    return items


def wham(
    root: Root,
    subset: str,
    *,
    sampling_rate: int = 8000,
    mode: str = "min",
    kind: str = "both",
) -> list[MixtureItem]:
    """WHAM!: ROOT/wav8k/min/tr/{mix_both,mix_clean,mix_single,s1,s2,noise}/NAME.wav.

    The benchmark separates mix_both into s1 and s2.

    Raises:
        ValueError: as `libri_mix`.
    """
    subset = WSJ0_SUBSETS.get(subset, subset)
    return _with_noise(Path(root) / _rate(sampling_rate) / mode / subset, kind, 2)


def whamr(
    root: Root,
    subset: str,
    *,
    sampling_rate: int = 8000,
    mode: str = "min",
    kind: str = "both",
    reverberant: bool = True,
    target: str = "anechoic",
) -> list[MixtureItem]:
    """WHAMR!: folders mix_{clean,both,single}_{anechoic,reverb}, s{1,2}_{anechoic,reverb}, noise.

    The benchmark separates mix_both_reverb into the anechoic sources.

    Args:
        reverberant: which mixtures.
        target: "anechoic" or "reverb": which sources.

    Raises:
        ValueError: as `libri_mix`, or an unknown target.
    """
    _known("kind", kind, KINDS)
    _known("target", target, ("anechoic", "reverb"))
    base = Path(root) / _rate(sampling_rate) / mode / WSJ0_SUBSETS.get(subset, subset)
    room = "reverb" if reverberant else "anechoic"
    speakers = 1 if kind == "single" else 2
    noise = None if kind == "clean" else "noise"
    sources = [f"s{i + 1}_{target}" for i in range(speakers)]
    return _same_names(base, f"mix_{kind}_{room}", sources, noise, additive=target == room)


def recordings_by_speaker(root: Root, pattern: str = "*.wav") -> dict[str, list[Path]]:
    """Recordings for dynamic mixing: a speaker is the folder that holds his files.

    Raises:
        ValueError: there is no file.
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(Path(root).rglob(pattern)):
        found.setdefault(file.parent.name, []).append(file)
    if not found:
        raise ValueError(f"{root} must hold files {pattern}, it has none")
    return found


def _with_noise(base: Path, kind: str, num_speakers: int) -> list[MixtureItem]:
    _known("kind", kind, KINDS)
    speakers = 1 if kind == "single" else num_speakers
    noise = None if kind == "clean" else "noise"
    return _same_names(base, f"mix_{kind}", [f"s{i + 1}" for i in range(speakers)], noise)


def _same_names(
    base: Path,
    mixture: str,
    sources: Sequence[str],
    noise: str | None = None,
    *,
    additive: bool = True,
) -> list[MixtureItem]:
    """Items whose files have the same name in several folders."""
    names: dict[str, list[str]] = {}
    for folder in (mixture, *sources, *([noise] if noise else [])):
        if not (base / folder).is_dir():
            raise ValueError(f"{base} must hold the folder {folder}, it does not")
        names[folder] = sorted(p.name for p in (base / folder).iterdir() if p.suffix != ".txt")
    if not names[mixture]:
        raise ValueError(f"{base / mixture} must hold mixtures, it is empty")
    for folder, files in names.items():
        if lacking := sorted(set(names[mixture]) - set(files)):
            raise ValueError(
                f"{base / folder} must hold a file for every mixture, {lacking[0]} is missing "
                f"({len(lacking)} in all)"
            )
    return [
        MixtureItem(
            Path(name).stem,
            base / mixture / name,
            tuple(base / s / name for s in sources),
            base / noise / name if noise else None,
            additive,
        )
        for name in names[mixture]
    ]


def _found(file: Path, path: str) -> Path:
    given = Path(path)
    return given if given.is_file() else file.parent.parent.joinpath(*given.parts[-3:])


def _rate(sampling_rate: int) -> str:
    if sampling_rate % 1000:
        raise ValueError(f"sampling_rate must be whole thousands, got {sampling_rate}")
    return f"wav{sampling_rate // 1000}k"


def _known(name: str, value: str, values: Sequence[str]) -> None:
    if value not in values:
        raise ValueError(f"{name} must be one of {', '.join(values)}, got {value!r}")
