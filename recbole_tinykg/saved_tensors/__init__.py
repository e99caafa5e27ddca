"""compressed_saves: low-bit activations for any PyTorch module, without touching its code.

    streams = NoiseStreams(seed=0, num_sites=1)  # one for the whole training
    with compressed_saves(model, bits=2, streams=streams):
        loss = model(batch)
    loss.backward()  # inside the block or after it

Forward is exact. Autograd hands every tensor that an operation saves to a pack hook, which returns
codes in its place where that is sound and worth it:

* `context`: the hooks, and the dispatch mode that tells them which operation is running;
* `recording`: what that mode has found out, by place in the program, for later steps;
* `replay`: the hooks of those steps, which need no mode;
* `derivation`: the proof by the autograd graph that rows were gathered as recorded;
* `block`: what hooks do with a tensor once that is known;
* `needs`: what the derivative of that operation needs of the tensor. Where it is linear in a saved
  tensor, unbiased codes give an unbiased derivative; where it reads only a sign, one exact bit
  does; all else (softmax, sigmoid, LayerNorm, an unknown operation, a custom `autograd.Function`)
  gets the tensor itself;
* `packed`: what a storage is packed as: a reference with its version, codes, or sign bits;
* `storage`: each storage is packed once, for all tensors on it;
* `gathers`: rows gathered from a parameter are not packed but gathered again;
* `recomputed`: how they are gathered again;
* `bias`: `measure_bias`, the error of a gradient that comes from it.

An unbiased gradient is not promised for arbitrary graphs: a storage is packed once, so a chain of
derivatives that reads it twice, as in `(x * x) * x`, multiplies its noise by itself. `measure_bias`
reports by how much. Second derivatives that would read codes are refused.
"""

from recbole_tinykg.saved_tensors.bias import Bias, measure_bias
from recbole_tinykg.saved_tensors.context import compressed_saves
from recbole_tinykg.saved_tensors.recording import Recording

__all__ = ["Bias", "Recording", "compressed_saves", "measure_bias"]
