"""How good a store is: whole, how far from its source, and whether other scales would do better.

`verify`, `measure_error` and `suggest` answer these; `write_report` shows all of it as a page. It may import everything
above it but `pipeline`, since it only reads.
"""
