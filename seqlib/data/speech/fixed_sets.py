# SPDX-License-Identifier: Apache-2.0
"""The fixed sets of prompts-2mix on disk, in the layout of WSJ0-2mix."""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...audio import to_int16, write_audio
from ..cache import atomic_directory, folder_of, read_about
from .items import MixtureItem, read_list
from .mixing import Mixture
from .prompt_store import PromptStore, open_prompts
from .prompts import SAMPLING_RATE
from .prompts_2mix import FIXED, Draw, Drawer, fixed_draws

logger = logging.getLogger(__name__)

NAMES = ("prompts-2mix", "prompts-2mix-mf")
LAYOUT = Path("wav8k", "min")
COLUMNS = (
    "id", "mixture", "source_1", "source_2", "voice_1", "keys_1", "gaps_1", "gain_1",
    "voice_2", "keys_2", "gaps_2", "gain_2", "length",
)  # fmt: skip


@dataclass(frozen=True)
class Prompts2Mix:
    """Recorded voices to train on, and fixed sets to validate and test on.

    Attributes:
        store: the prompts.
        sets: items of "validation", "test-seen" and "test-unseen".
        across_sexes: only men with women.
        manifest: versions, licences, counts and `sha256`, which belongs beside every score.
    """

    store: PromptStore
    sets: Mapping[str, list[MixtureItem]]
    across_sexes: bool
    manifest: Mapping[str, Any]


def open_prompts_2mix(
    root: Path,
    name: str = "prompts-2mix",
    *,
    path: str | os.PathLike[str] | None = None,
    fetch: bool = False,
) -> Prompts2Mix:
    """The data from the cache below `root`, made first where it is not there.

    Args:
        root: the cache directory.
        name: "prompts-2mix", or "prompts-2mix-mf" with pairs of a man and a woman only.
        path: the directory into which the packages were unpacked; / when None.
        fetch: download packages that are not installed.

    Raises:
        ValueError: an unknown name, packages are missing and `fetch` is off, damaged files.
        RuntimeError: a download failed.
        OSError: the cache can't be written.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    across_sexes = name.endswith("-mf")
    store = open_prompts(root, path=path, fetch=fetch)
    target = root / folder_of(f"{name}-v1", path)
    if not (target / "manifest.json").is_file():
        logger.info("preparing %s in %s", name, target)
        with atomic_directory(target) as scratch:
            _write(scratch, name, store, across_sexes)
    manifest = read_about(target / "manifest.json")
    if manifest["prompts"] != store.manifest["sha256"]:
        raise ValueError(
            f"{target} was made from other prompts than {store.folder} holds: delete it and it "
            "will be prepared again"
        )
    sets = {s: read_list(target / f"{fixed.folder}.csv") for s, fixed in FIXED.items()}
    return Prompts2Mix(store, sets, across_sexes, manifest)


def _write(folder: Path, name: str, store: PromptStore, across_sexes: bool) -> None:
    digest, counts = hashlib.sha256(), {}
    for set_name, fixed in FIXED.items():
        drawer, draws = fixed_draws(store, set_name, across_sexes=across_sexes)
        samples = _write_set(folder, fixed.folder, drawer, draws, digest)
        counts[set_name] = {
            "mixtures": len(draws),
            "utterances": len(drawer.utterances),
            "seconds": round(samples / SAMPLING_RATE, 1),
        }
    manifest = {
        "name": name,
        "versions": store.manifest["versions"],
        "licence": store.manifest["licence"],
        "attribution": store.manifest["attribution"],
        "prompts": store.manifest["sha256"],
        "sets": counts,
        "sha256": digest.hexdigest(),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def _write_set(folder: Path, short: str, drawer: Drawer, draws: list[Draw], digest: Any) -> int:
    """Files and list of one set; returns the samples of its mixtures."""
    total = 0
    for part in ("mix", "s1", "s2"):
        (folder / LAYOUT / short / part).mkdir(parents=True)
    with (folder / f"{short}.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for i, draw in enumerate(draws):
            item = f"{i:04d}_{draw.utterances[0].voice}_{draw.utterances[1].voice}"
            signals = drawer.mix(draw)
            paths = _write_mixture(folder, LAYOUT / short, item, signals, digest)
            rows.writerow((item, *paths, *_described(draw), len(signals.mixture)))
            total += len(signals.mixture)
    return total


def _write_mixture(
    folder: Path, below: Path, item: str, signals: Mixture, digest: Any
) -> list[str]:
    paths = []
    parts = {"mix": signals.mixture, "s1": signals.sources[0], "s2": signals.sources[1]}
    for part, samples in parts.items():
        path = below / part / f"{item}.wav"
        write_audio(folder / path, samples, SAMPLING_RATE)
        digest.update(to_int16(samples).tobytes())
        paths.append(path.as_posix())
    return paths


def _described(draw: Draw) -> list[str]:
    """What the list says of a draw: enough to mix it again."""
    cells = []
    for utterance, gain in zip(draw.utterances, draw.gains, strict=True):
        gaps = " ".join(map(str, utterance.gaps))
        cells += [utterance.voice, " ".join(utterance.keys), gaps, f"{gain:.6f}"]
    return cells
