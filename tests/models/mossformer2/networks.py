# SPDX-License-Identifier: Apache-2.0
"""Golden networks under our names."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from seqlib.models import MossFormer2Config, MossFormer2ForSpeechSeparation
from seqlib.models.convert.mossformer2_names import to_common
from seqlib.models.convert.mossformer2_ours import our_name

GOLDEN = Path(__file__).parents[2] / "golden" / "mossformer2"

_SMALL = {"hidden_size": 24, "inner_size": 16, "query_key_dim": 32, "group_size": 24}
SIZES = {
    "net_2spk": {
        "hidden_size": 32,
        "inner_size": 24,
        "query_key_dim": 40,
        "group_size": 32,
        "num_hidden_layers": 2,
    },
    "net_3spk_batch": {
        **_SMALL,
        "num_hidden_layers": 1,
        "num_speakers": 3,
        "encoder_kernel_size": 8,
    },
    "net_default_hparams": {"hidden_size": 16, "num_hidden_layers": 1},
    "net_standalone_names_whamr": {**_SMALL, "num_hidden_layers": 1, "mask_mode": "direct"},
    "net_varlen": {**_SMALL, "num_hidden_layers": 1},
}


def arrays_of(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def renamed(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Arrays of published tensors by our names; constants are left out."""
    found = {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
    named = to_common(found)
    return {our_name(n): v for n, v in named.items() if not n.endswith(("freqs", "inv_freq"))}


def golden_network(name: str) -> MossFormer2ForSpeechSeparation:
    """In float64 and evaluation mode."""
    network = MossFormer2ForSpeechSeparation(MossFormer2Config(**SIZES[name]))
    shapes = {n: v.shape for n, v in network.state_dict().items()}
    weights = renamed(arrays_of(name), "w.")
    network.load_state_dict({n: v.reshape(shapes[n]) for n, v in weights.items()})
    return network.double().eval()


def off(got: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((got - want).abs().max() / want.abs().max()).item()


def random_network(**changes) -> MossFormer2ForSpeechSeparation:
    """A small one in float64 and evaluation mode, its parameters away from their first values."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 12,
        "inner_size": 9,
        "query_key_dim": 10,
        "group_size": 7,
        "num_hidden_layers": 2,
        "fsmn_order": 4,
        "conv_kernel_size": 5,
        "encoder_kernel_size": 4,
        "dropout": 0.0,
    }
    network = MossFormer2ForSpeechSeparation(MossFormer2Config(**sizes | changes)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return network
