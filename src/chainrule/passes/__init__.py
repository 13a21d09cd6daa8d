"""Passes: graph → graph."""
