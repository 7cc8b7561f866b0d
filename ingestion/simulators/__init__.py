"""Seeded simulators of what arrives: payments with known fraud, a market with known demand.

Both are pure functions of their seed and parameters; a day depends on no other day, so that a longer run
begins with the events of a shorter one and a later run continues it.
"""
