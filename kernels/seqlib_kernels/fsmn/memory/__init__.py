# SPDX-License-Identifier: Apache-2.0
"""Memory by a short convolution over time for every channel, behind a fused activation."""
