# SPDX-License-Identifier: Apache-2.0
"""The state-space dual: one signed decay per head and an outer product per token (Mamba-2)."""
