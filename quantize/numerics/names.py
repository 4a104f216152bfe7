"""What settings may be: the names there are. Imports nothing, so that `quantize --help` can show them."""

SCALE_METHODS = ("minmax", "absmax", "percentile", "mse")
PERCENTILE = 99.9  # %: the share of the values that the method "percentile" keeps within the range by default
NAN_POLICIES = ("raise", "propagate")
COMPRESSORS = ("zstd", "gzip", "blosc")
