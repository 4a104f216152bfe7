"""Scales found from data: blocks are scanned and counted, ranges are chosen. The arithmetic of pass 1.

It works on arrays in memory, with compiled loops; where blocks come from and where scales go is not known here. It may
import `numerics` and `kernels`. A new way to choose scales is a file here, and a method in `numerics.scales`.
"""
