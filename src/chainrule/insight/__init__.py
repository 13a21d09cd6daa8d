"""Seeing: where a gradient came from, in numbers that add up."""
