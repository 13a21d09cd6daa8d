"""Backends turn a graph into a function of arrays."""
