"""The report: figures, a verdict in words and pictures, as one page of HTML. `write_report` is for callers.

It may import what stands beside this folder in `quality`, and what `quality` may import.
"""
