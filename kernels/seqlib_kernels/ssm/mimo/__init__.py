# SPDX-License-Identifier: Apache-2.0
"""One diagonal state-space model for all channels together: S5 and S5-PTD."""
