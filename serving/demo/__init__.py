"""The demonstration: the whole system at work, on simulated payments or on a file of the user's own."""
