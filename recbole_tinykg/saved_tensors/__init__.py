"""compressed_saves: low-bit activations for any PyTorch module, without touching its code.

    streams = NoiseStreams(seed=0, num_sites=1)  # kept over the training
    with compressed_saves(model, bits=2, streams=streams):
        loss = model(batch)
    loss.backward()  # inside the block or after it

Forward is exact. Autograd hands every tensor that an operation saves to a hook, which keeps codes
in its place where that is worth it and sound:

* `needs`: which operation saves the tensor, and what its derivative asks of it. Where a derivative
  is linear in a saved tensor, unbiased codes give an unbiased derivative; where only a sign is
  read, one exact bit does; all else (softmax, sigmoid, LayerNorm, an unknown operation, a custom
  `autograd.Function`) gets the tensor itself;
* `kept`: what stands for a tensor: a reference with its version, codes, or sign bits;
* `gathers`: rows gathered from a parameter, for which the gather stands that makes them again;
* `storage`: one record per storage, for all tensors in it;
* `block`: the hooks, and the dispatch mode that tells them which operation is running;
* `bias`: `measure_bias`, what a gradient loses by it.

No promise of an unbiased gradient is made for arbitrary graphs: one storage is packed once, so a
chain of derivatives that reads it twice, as in `(x * x) * x`, multiplies a noise by itself.
`measure_bias` reports by how much. Second derivatives of what codes stand for are refused.
"""

from recbole_tinykg.saved_tensors.bias import Bias, measure_bias
from recbole_tinykg.saved_tensors.context import compressed_saves

__all__ = ["Bias", "compressed_saves", "measure_bias"]
