"""Metrics, as pure functions."""
