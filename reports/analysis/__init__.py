"""Recorded runs in groups, and what can be said of them in numbers."""
