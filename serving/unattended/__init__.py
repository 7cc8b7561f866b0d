"""Weeks of simulated events in minutes: what the system learns when nobody looks after it."""
