# SPDX-License-Identifier: Apache-2.0
"""FSMN: memory by sparse taps over time, norms over sequences, joint local and global attention."""
