"""Schedules: a graph as a list of kernels over buffers, ready for a backend that makes machine code."""
