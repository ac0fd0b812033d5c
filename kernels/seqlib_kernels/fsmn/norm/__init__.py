# SPDX-License-Identifier: Apache-2.0
"""Normalisation by the statistics of whole sequences, per channel or over all of them."""
