# SPDX-License-Identifier: Apache-2.0
"""A diagonal state-space model per channel: S4D and S4-PTD."""
