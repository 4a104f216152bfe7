"""What comes back from a sealed variable: `open_int4`, `Int4Array`, its words, and `restore`.

It may import `storage`, `io` and `runtime`, and what these may. Readers for other libraries have their file here.
"""
