# SPDX-License-Identifier: Apache-2.0
"""The delta rule: DeltaNet, Gated DeltaNet, signed decay and DeltaProduct in one recurrence."""
