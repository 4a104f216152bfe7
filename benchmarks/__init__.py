"""Measurements of `quantize` against what is possible and what others do: ``python -m benchmarks``."""
