# SPDX-License-Identifier: Apache-2.0
"""The diagonal linear recurrence h_t = a_t * h_{t-1} + b_t, real or complex, any sign."""
