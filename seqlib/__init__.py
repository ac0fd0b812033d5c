# SPDX-License-Identifier: Apache-2.0
"""Sequence models with fused kernels; importing it registers the models with transformers."""

from . import models

__all__ = ["models"]
