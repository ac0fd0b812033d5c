# SPDX-License-Identifier: Apache-2.0
"""What several mixers and models share: norms, the MLP, the short convolution, positions."""
