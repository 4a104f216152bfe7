"""The command `quantize`: parses, calls, prints. Nothing imports it, and `quantize --help` imports nothing heavy."""

from .commands import main as main
