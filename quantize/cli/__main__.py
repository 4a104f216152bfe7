"""``python -m quantize.cli`` is the command `quantize`."""

from . import main

main()
