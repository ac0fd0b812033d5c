# SPDX-License-Identifier: Apache-2.0
"""Sequence models with fused kernels, registered with transformers' Auto classes on import."""
