"""What the numbers are: which values share a scale, how a scale follows from statistics, which level a code stands for.

NumPy and exact rationals. No loop is compiled here and no file is read, so all of it imports at once. It may import
`exceptions` alone; everything else uses it. A caller of the library needs none of it.
"""
