"""Arrays in memory: quantize, pack, unpack, dequantize, and what it cost."""

import numpy as np

from quantize import dequantize_from_int4, quantize_to_int4
from quantize.quantize import pack_int4_to_int8, unpack_int8_to_int4

np.set_printoptions(precision=4, suppress=True)


def main() -> None:
    values = np.array([0.1, 0.5, -1.3, 2.7, 3.9, -0.8, 5.2, -4.7])
    print("values        ", values)
    for scale_method in ("minmax", "absmax"):
        quantized, scale, zero_point = quantize_to_int4(values, scale_method)
        packed = pack_int4_to_int8(quantized)
        unpacked = unpack_int8_to_int4(packed, size=len(values))
        restored = dequantize_from_int4(unpacked, scale, zero_point, dtype=values.dtype)
        error = restored - values
        print(f"\n{scale_method}: scale {scale:.6g}, zero point {zero_point}")
        print("codes         ", quantized)
        print("packed        ", packed, f"{packed.nbytes} bytes instead of {values.nbytes}")
        print("restored      ", restored)
        print("error         ", error)
        print(f"mean absolute  {np.abs(error).mean():.4f}, largest {np.abs(error).max():.4f}, bound {scale / 2:.4f}")

    kelvin = np.array([271.3, 280.0, 288.6, 301.9])
    quantized, scale, zero_point = quantize_to_int4(kelvin)
    print("\nkelvin        ", kelvin)
    print("with z        ", dequantize_from_int4(quantized, scale, zero_point), f"zero point {zero_point}")
    print("without       ", dequantize_from_int4(quantized, scale), "wrong: the zero point belongs to the codes")


if __name__ == "__main__":
    main()
