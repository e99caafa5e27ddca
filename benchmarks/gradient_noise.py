"""How noisy is the gradient of a BPR step on compressed activations?

    python -m benchmarks.gradient_noise --gradient_bits 2,8

TinyKGAT trains three epochs on ml-100k; then one batch's gradient is drawn several times and
compared with the exact one: the mean of |drawn - exact|^2 / |exact|^2, per parameter. Settings
differ in the bits of the codes of the loss' gradient (`bpr.GRADIENT_BITS`, 8 in the package).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from recbole.utils import KGDataLoaderState

from recbole_tinykg.quick_start import prepare


def main() -> None:
    """Print one line per setting; JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--gradient_bits", default="8", help="separated by commas")
    parser.add_argument("--layers", default="[64];[64,32,16]", help="separated by semicolons")
    parser.add_argument("--draws", type=int, default=12)
    args = parser.parse_args()
    results = []
    for layers in map(json.loads, args.layers.split(";")):
        model, batch = train(layers, args.bits)
        for bits in map(int, args.gradient_bits.split(",")):
            choice = {name: args.bits for name in model.map_sites}
            gradients_at = {n: max(bits, args.bits) for n in choice if n.endswith("gradient")}
            model.choose_bits({**choice, **gradients_at})
            noise = relative_noise(model, batch, args.draws)
            results.append({"layers": layers, "gradient_bits": bits, "noise": noise})
            print(f"layers {layers}, gradient codes of {bits} bits")
            for name, value in noise.items():
                print(f"  {name:36} {value:.4f}")
    print(json.dumps(results))


def train(layers: list[int], bits: int) -> tuple[Any, Any]:
    """Return a model after three epochs, and a batch."""
    settings = {"layers": layers, "compress_bits": bits, "mess_dropout": 0.0, "gpu_id": ""}
    run = {"epochs": 3, "eval_step": 0, "learning_rate": 0.005, "state": "ERROR"}
    experiment = prepare("TinyKGAT", "ml-100k", config_dict={**settings, **run})
    experiment.trainer.fit(experiment.train_data, saved=False)
    experiment.train_data.set_mode(KGDataLoaderState.RS)
    return experiment.model.train(), next(iter(experiment.train_data))


def gradients(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Gradient of the BPR loss by parameter."""
    model.zero_grad()
    model.calculate_loss(batch).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def relative_noise(model: Any, batch: Any, draws: int) -> dict[str, float]:
    """Mean of |drawn - exact|^2 / |exact|^2 by parameter."""
    with model.compression(32):
        exact = gradients(model, batch)
    total = dict.fromkeys(exact, 0.0)
    for _ in range(draws):
        for name, grad in gradients(model, batch).items():
            total[name] += float(((grad - exact[name]).norm() / exact[name].norm()) ** 2)
    return {name: value / draws for name, value in total.items()}


if __name__ == "__main__":
    main()
