# SPDX-License-Identifier: Apache-2.0
"""What a separation run is built from: settings of data, model and test, and their objects."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.utils.data import Dataset, Subset

from seqlib.data.speech import DynamicMixtures, MixtureDataset, SpeechData, load_speech
from seqlib.data.speech.layouts import recordings_by_speaker
from seqlib.evaluation.separation_libraries import check_metrics
from seqlib.models.mossformer2 import MossFormer2Config, MossFormer2ForSpeechSeparation

from .settings import as_mapping


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class MixtureSettings:
    """Which mixtures, and how they are cut and made for training."""

    data: str = field(
        default="prompts-2mix",
        metadata=_help(
            "prompts-2mix, prompts-2mix-mf; or a corpus that you have: wsj0-2mix, wsj0-3mix, "
            "libri2mix, libri3mix, libri2mix-noisy, wham, whamr."
        ),
    )
    data_root: str | None = field(default=None, metadata=_help("The folder of the corpus."))
    data_mode: str = field(default="min", metadata=_help("Of the corpus: min or max."))
    sample_rate: int = field(default=8000, metadata=_help("Of the corpus, in Hz."))
    fetch: bool = field(
        default=False, metadata=_help("Let prompts download packages that are not installed.")
    )
    segment_seconds: float = field(default=4.0, metadata=_help("Length of training windows."))
    mixtures_per_epoch: int | None = field(
        default=None, metadata=_help("Of mixtures made on the fly; 5,000 prompts by default.")
    )
    speed_perturbation: bool = field(
        default=False,
        metadata=_help("Play sources of listed mixtures at 95 to 105 %, prompts at 80 to 120 %."),
    )
    recordings: str | None = field(
        default=None,
        metadata=_help("Dynamic mixing: train on new mixtures of this folder's speakers instead."),
    )
    noises: str | None = field(default=None, metadata=_help("Noise for dynamic mixing, a folder."))
    validation_mixtures: int | None = field(
        default=None, metadata=_help("Watch at most so many of the validation set.")
    )

    def __post_init__(self) -> None:
        if self.noises is not None and self.recordings is None:
            raise ValueError("noises go with recordings, of which dynamic mixing makes mixtures")
        for name in ("segment_seconds", "mixtures_per_epoch", "validation_mixtures"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass
class SeparatorSettings:
    """The architecture: a preset and what is changed in it, checked by its configuration."""

    network: str = field(default="mossformer2", metadata=_help("Or tasnet, the baseline."))
    preset: str | None = field(
        default=None, metadata=_help("Of mossformer2, by name; tiny by default.")
    )
    changes: dict | str | None = field(
        default=None, metadata=_help("Fields of the configuration: '{\"hidden_size\": 128}'.")
    )

    def __post_init__(self) -> None:
        self.changes = as_mapping("changes", self.changes)


@dataclass
class TestSettings:
    """How a trained model is tested; another test does not make another run."""

    eval_mixtures: int | None = field(
        default=None, metadata=_help("At most so many mixtures of each test split.")
    )
    eval_metrics: list[str] = field(
        default_factory=list,
        metadata=_help("Besides SI-SDRi and SI-SNRi: sdr, stoi, estoi, pesq (extra packages)."),
    )
    eval_examples: int = field(
        default=2, metadata=_help("Mixtures of each test split to write as WAV and pictures.")
    )

    __test__ = False  # no class of tests, whatever its name

    def __post_init__(self) -> None:
        if self.eval_mixtures is not None and self.eval_mixtures < 1:
            raise ValueError(f"eval_mixtures must be positive, got {self.eval_mixtures}")
        if self.eval_examples < 0:
            raise ValueError(f"eval_examples must not be negative, got {self.eval_examples}")

    def check(self, rate: int) -> None:
        """Refuse metrics that could not be computed once the model is trained.

        Raises:
            ValueError: an unknown metric, or PESQ at a rate that it is not defined for.
            ImportError: the package of a metric is not installed.
        """
        check_metrics(self.eval_metrics, rate)


@dataclass(frozen=True)
class MixtureData:
    """Mixtures to train on, to watch while training (nothing is chosen by them), and to test on."""

    speech: SpeechData
    train: MixtureDataset
    validation: Dataset[Any]

    @property
    def tests(self) -> list[str]:
        """The names of the fixed test sets."""
        return [name for name in self.speech.sets if name.startswith("test")]

    def test(self, name: str, count: int | None = None) -> Iterator[dict[str, Tensor]]:
        """The first `count` whole mixtures of a test set; all of them by default."""
        found = self.speech.fixed(name)
        return (found[i] for i in range(len(found))[:count])

    def identity(self) -> Mapping[str, Any]:
        """What a record needs to tell this data from any other."""
        manifest = self.speech.manifest
        sets = {name: counts["mixtures"] for name, counts in manifest["sets"].items()}
        told = {"name": self.speech.name, "sets": sets, "examples": len(self.train)}
        return told | ({"sha256": manifest["sha256"]} if "sha256" in manifest else {})


def prepare_mixtures(settings: MixtureSettings, seed: int) -> MixtureData:
    """The data of a run; training mixtures follow from `seed`, their epoch and number.

    Raises:
        ValueError: an unknown name, a root that lacks a folder, or settings that don't go with
            the data.
        AudioError: a damaged file where data are prepared.
        RuntimeError: a download failed.
    """
    speech = load_speech(
        settings.data,
        root=settings.data_root,
        sampling_rate=settings.sample_rate,
        mode=settings.data_mode,
        fetch=settings.fetch,
    )
    if settings.recordings is None:
        train = speech.train(
            seconds=settings.segment_seconds,
            size=settings.mixtures_per_epoch,
            speed_perturbation=settings.speed_perturbation,
            seed=seed,
        )
    else:
        train = _dynamic(settings, speech, seed)
    validation: Dataset[Any] = speech.fixed("validation")
    if settings.validation_mixtures is not None:
        count = min(settings.validation_mixtures, len(speech.sets["validation"]))
        validation = Subset(validation, range(count))
    return MixtureData(speech, train, validation)


def _dynamic(settings: MixtureSettings, speech: SpeechData, seed: int) -> DynamicMixtures:
    """As many mixtures in an epoch as the list has that they replace."""
    if settings.speed_perturbation:
        raise ValueError("speed_perturbation goes with lists and prompts, not with recordings")
    size = settings.mixtures_per_epoch or len(speech.sets.get("train", ()))
    if not size:
        raise ValueError(f"mixtures_per_epoch must be given: {speech.name} has no list to replace")
    return DynamicMixtures(
        recordings_by_speaker(settings.recordings or ""),
        noises=sorted(Path(settings.noises).rglob("*.wav")) if settings.noises else (),
        num_speakers=speech.num_speakers,
        sampling_rate=speech.sampling_rate,
        seconds=settings.segment_seconds,
        size=size,
        seed=seed,
    )


def build_separator(settings: SeparatorSettings, **fields: Any) -> MossFormer2ForSpeechSeparation:
    """A fresh model; draws from torch's global generator.

    Args:
        fields: of the configuration, from the data.

    Raises:
        ValueError: an unknown preset, or an architecture that `MossFormer2Config` refuses.
    """
    changes = as_mapping("changes", settings.changes)
    with config_errors():
        config = MossFormer2Config.from_preset(settings.preset or "tiny", **changes | fields)
    return MossFormer2ForSpeechSeparation(config)


@contextmanager
def config_errors() -> Iterator[None]:
    """What a configuration refuses, as the plain ValueError that it raised itself."""
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
