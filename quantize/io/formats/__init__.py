"""One file for each format or library: how it is read as a `Source`, and written as a `Sink`.

Each has a `FORMAT`, which says what it takes, and is imported when something is first shown to it; its library when it
opens something. It may import what stands beside this folder in `io`, and what `io` may import.
"""
