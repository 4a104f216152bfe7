"""The command `quantize`: parses, calls, prints.

It may import everything, and nothing imports it; ``quantize --help`` imports nothing heavy. `main` is for callers.
"""

from .commands import main as main
