# SPDX-License-Identifier: Apache-2.0
"""Linear state-space layers: diagonal per channel (S4D, S4-PTD), diagonal MIMO (S5), dense (LSSL)."""
