# SPDX-License-Identifier: Apache-2.0
"""Linear state-space layers: diagonal per channel (S4), diagonal MIMO (S5), dense (LSSL)."""
