"""Low-bit codes with unbiased stochastic rounding, their noise, and how many bits each map gets.

* `quantizer`: `Quantizer` makes codes, `Quantized` holds them;
* `noise_streams`: where each place of a step finds its noise;
* `sensitivity`: how much noise each stored map adds to the gradient, measured;
* `allocation`: the knapsack of bits; `budget`: bits that fit a number of bytes.
"""

from recbole_tinykg.quantization.noise_streams import NoiseStreams
from recbole_tinykg.quantization.quantizer import BITS, Quantized, Quantizer, quantize, stream

__all__ = ["BITS", "NoiseStreams", "Quantized", "Quantizer", "quantize", "stream"]
