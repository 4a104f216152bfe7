"""One file for each format or library: how it is read as a `Source`, and written as a `Sink`.

A file here is imported when something asks for its format, and not before. It may import what stands beside this
folder in `io`, and what `io` may import.
"""
