# SPDX-License-Identifier: Apache-2.0
"""What every kernel family shares: backend choice, argument checks, op registration, allocation."""
