"""One run, from settings to a plan to tasks: what it will need, what a task does, where it runs, how far it is.

`pipeline.py` is the face of it, and `plan` and `Progress` are for callers. It may import everything above it but the
doors `quantize` and `pipeline`. Nothing here knows the command line.
"""
