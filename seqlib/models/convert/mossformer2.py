# SPDX-License-Identifier: Apache-2.0
"""Published MossFormer2 checkpoints made ours, and ours made theirs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..mossformer2.configuration import MossFormer2Config
from ..mossformer2.enhancement import MossFormer2ForSpeechEnhancement
from ..mossformer2.feature_extraction import MossFormer2FeatureExtractor
from ..mossformer2.modeling import MossFormer2ForSpeechSeparation
from ..whole_folder import whole_folder
from . import mossformer2_names as names
from .family import ConversionError, require
from .mossformer2_files import read_tensors, write_files
from .mossformer2_ours import our_name
from .tensors import WEIGHTS, stored_tensors

_CONSTANT_TOLERANCE = 1e-6


def convert_mossformer2(
    source: str | Path,
    folder: str | Path,
    *,
    group_size: int = 256,
    sample_rate: int | None = None,
    mask_mode: str | None = None,
) -> str:
    """Write a published checkpoint as one of ours into `folder`, with its feature extractor.

    ClearerVoice, ModelScope and the standalone release, separation or enhancement. Sizes are
    those of the tensors, whose bits and dtypes are kept. Memory: all of the source.

    Args:
        source: a file or a folder (`mossformer2_files.read_tensors`); nothing but tensors is
            unpickled.
        folder: new or empty.
        group_size: frames that attend to each other, which no tensor tells.
        sample_rate: which no tensor tells; by default what the names of the file and its folders
            say ("16k", "48k"), or 48000 for enhancement and 8000 otherwise.
        mask_mode: "multiply", or "direct" where the mask is decoded as it is; by default direct
            for a name with "whamr".

    Returns:
        The `model_type` of what was written.

    Raises:
        ConversionError: tensors that are missing, unexpected or of another shape, all of them
            listed, or constants with other values. Nothing is written.
        FileExistsError: `folder` holds something.
        OSError: a file that is missing or damaged.
    """
    source, folder = Path(source), Path(folder)
    _check_new(folder)
    tensors = names.to_common(read_tensors(source))
    sizes = names.sizes(tensors)
    called = "/".join(source.resolve().parts[-3:]).lower()
    enhances = "input_features" in sizes
    if sample_rate is None:
        said = [rate for rate in (8, 16, 48) if f"{rate}k" in called]
        sample_rate = 1000 * said[0] if len(said) == 1 else 48000 if enhances else 8000
    if mask_mode is None:
        mask_mode = "direct" if "whamr" in called else "multiply"
    try:
        config = MossFormer2Config(
            **sizes, group_size=group_size, sample_rate=sample_rate, mask_mode=mask_mode
        )
    except (ValueError, TypeError) as error:
        raise ConversionError(f"the sizes of the checkpoint: {error}") from error
    ours = to_ours(tensors, config)

    cls = _network_class(config)
    config.architectures = [cls.__name__]
    dtypes = {value.dtype for value in ours.values()}
    config.dtype = dtypes.pop() if len(dtypes) == 1 else None
    with whole_folder(folder) as growing:
        save_file(ours, growing / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(growing)
        MossFormer2FeatureExtractor.of(config).save_pretrained(growing)
    return config.model_type


def export_mossformer2(
    source: str | Path, folder: str | Path, *, layout: str = "clearvoice"
) -> str:
    """Write a checkpoint of ours as a published one into `folder`.

    Args:
        source: a folder with config.json and safetensors files.
        folder: new or empty.
        layout: "clearvoice", "standalone" or "modelscope".

    Returns:
        The layout.

    Raises:
        ConversionError: tensors that are missing, unexpected or of another shape, or a network
            that the public code does not compute.
        ValueError: an unknown layout, or one without such networks.
        FileExistsError: `folder` holds something.
        OSError: a file that is missing or damaged.
    """
    source, folder = Path(source), Path(folder)
    if layout not in names.LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(names.LAYOUTS)}, got {layout!r}")
    _check_new(folder)
    config = MossFormer2Config.from_pretrained(source)
    require(not config.causal, "causal", "False: no published network is", config.causal)
    ours = {}
    for file in sorted({stored.file for stored in stored_tensors(source).values()}):
        ours |= load_file(source / file)
    tensors = to_theirs(ours, config)
    enhances = config.input_features is not None
    theirs = {names.from_common(k, layout, enhances): v for k, v in tensors.items()}
    with whole_folder(folder) as growing:
        write_files(theirs, growing, layout)
    return layout


def to_ours(tensors: Mapping[str, Tensor], config: MossFormer2Config) -> dict[str, Tensor]:
    """Tensors under common public names as the state of our network; constants are dropped.

    Raises:
        ConversionError: tensors missing, unexpected or of another shape, constants that differ.
    """
    _check(tensors, names.shapes(config))
    state = _state(config)
    ours = {}
    for name, tensor in tensors.items():
        constant = _constant(name, config)
        if constant is None:
            new = our_name(name)
            ours[new] = tensor.reshape(state[new].shape).contiguous()
        elif (tensor.double() - constant.double()).abs().max() > _CONSTANT_TOLERANCE:
            raise ConversionError(
                f"{name} must hold 10000^(-2j/{2 * len(constant)}), got {tensor.tolist()}"
            )
    return ours


def to_theirs(tensors: Mapping[str, Tensor], config: MossFormer2Config) -> dict[str, Tensor]:
    """The state of our network under common public names, constants included.

    Raises:
        ConversionError: tensors that are missing, unexpected or of another shape.
    """
    _check(tensors, {name: tuple(value.shape) for name, value in _state(config).items()})
    theirs = {}
    for name, shape in names.shapes(config).items():
        constant = _constant(name, config)
        value = tensors[our_name(name)] if constant is None else constant
        theirs[name] = value.reshape(shape).contiguous()
    return theirs


def _constant(name: str, config: MossFormer2Config) -> Tensor | None:
    if name.endswith(names.ROTATION):
        return names.frequencies(min(config.rotary_dim, config.query_key_dim))
    return names.frequencies(config.hidden_size) if name.endswith(names.POSITIONS) else None


def _network_class(config: MossFormer2Config) -> Any:
    enhances = config.input_features is not None
    return MossFormer2ForSpeechEnhancement if enhances else MossFormer2ForSpeechSeparation


def _state(config: MossFormer2Config) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        network: nn.Module = _network_class(config)(config)
    return network.state_dict()


def _check(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    other = [
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    if any(found.values()):
        lists = "; ".join(f"{word}: {', '.join(these)}" for word, these in found.items() if these)
        raise ConversionError(f"the checkpoint is not what its sizes say; {lists}")


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} must be new or empty: nothing is overwritten")
