"""Low-bit codes with unbiased stochastic rounding, their noise, and how many bits each map gets.

* `quantizer`: `Quantizer` makes codes, `Quantized` holds them;
* `noise_streams`: the random streams of a step; `sites`: the names of the places that use them;
* `sensitivity`: how much noise each stored map adds to the gradient, measured;
* `allocation`: the knapsack of bits; `budget`: bits that fit a number of bytes.
"""

from recbole_tinykg.quantization.noise_streams import NoiseStreams
from recbole_tinykg.quantization.quantizer import BITS, Quantized, Quantizer, quantize, stream
from recbole_tinykg.quantization.sites import Site, Sites, SiteTable, StepSites

__all__ = [
    "BITS",
    "NoiseStreams",
    "Quantized",
    "Quantizer",
    "Site",
    "SiteTable",
    "Sites",
    "StepSites",
    "quantize",
    "stream",
]
