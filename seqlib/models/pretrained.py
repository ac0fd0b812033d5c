# SPDX-License-Identifier: Apache-2.0
"""Loading, saving and initialisation of all models."""

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ..layers.initial_values import InitialValues
from ..layers.optim import tag_parameters


class SeqlibPreTrainedModel(PreTrainedModel):
    """Modules say what they start from, what stays in float32 and what optimizers should know."""

    supports_gradient_checkpointing = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, InitialValues):
            for name, value in module.initial_values().items():
                init.copy_(getattr(module, name), value)

    def post_init(self) -> None:
        self._keep_in_fp32_modules_strict = {
            name
            for module in self.modules()
            for name in getattr(module, "keep_in_float32", ())
            if getattr(module, name, None) is not None
        }
        super().post_init()
        tag_parameters(self)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers, with tagged parameters and a damaged file named as such.

        Raises:
            ValueError: a checkpoint of another architecture.
            OSError: a missing or damaged file.
        """
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"a weights file of {pretrained_model_name_or_path!r} is damaged or incomplete "
                f"({error}); get it again or take an earlier checkpoint"
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        tag_parameters(model)  # loading puts new parameters into place
        return loaded
