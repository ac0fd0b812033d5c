# SPDX-License-Identifier: Apache-2.0
"""Which keywords a configuration takes beside its fields."""

from collections.abc import Collection, Iterable

from transformers import GenerationConfig

from ..mixers.names import unknown_name

# Keywords without a field that transformers itself passes to a configuration or reads back from
# its JSON file.
_BASE_NAMES = {
    *("attn_implementation", "auto_map", "custom_pipelines", "experts_implementation"),
    *("finetuning_task", "name_or_path", "num_labels", "output_attentions"),
    *("per_layer_config", "prefix", "quantization_config", "sep_token_id", "tokenizer_class"),
    "torch_dtype",
    "use_cache",  # a Trainer writes it into every configuration
}


def check_keywords(kwargs: Iterable[str], fields: Collection[str]) -> None:
    """Refuse keywords that are neither `fields` nor transformers' own.

    Raises:
        ValueError: an unknown keyword, with the nearest known one, or a setting of generation.
    """
    known = {*fields} | _BASE_NAMES
    generation = GenerationConfig().to_dict()
    for name in kwargs:
        if name in _BASE_NAMES or name.startswith("_"):
            continue
        if name in generation:
            raise ValueError(f"{name} belongs in model.generation_config, not in the configuration")
        raise unknown_name("configuration field", name, known)
