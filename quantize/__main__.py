"""``python -m quantize`` is the command `quantize`."""

from .cli import main

main()
