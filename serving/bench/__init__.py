"""Benchmarks: ratios measured side by side in one run, never figures from a test."""
