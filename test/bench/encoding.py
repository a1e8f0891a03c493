"""Encoding on a CPU: ours against plain eager PyTorch, and against the matrix units' peak.

Each way runs in a process of its own, as the allocator's settings count for a whole process:
`plain` is timm's network as it comes, in a process as it comes. CPU seconds of one thread.

Run as `PYTHONPATH=. python test/bench/encoding.py [ROUNDS]`; some minutes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from helpers.measure import ROUNDS, SETTINGS, cpu_seconds, where_and_what

from model.process import prepare_process

BATCH = 8
PLAIN_BATCH = 32
"""A usual one. Without the allocator's settings, larger batches are the slower."""
BATCHES = 5
WARM_UP = 3
VIT_BATCH = 4
VIT_GFLOP = 123.2
"""Of a patch through ViT-L/16."""
LAYER_SCALE = 0.3
"""Without trained weights: timm starts with 1e-5, which all but mutes the blocks."""
PRODUCT = (1576, 1024, 4096)
"""Rows, inputs and outputs of the largest product of a ViT-L with 8 patches."""


def main(rounds: int) -> None:
    """Measure all ways in turn, and print."""
    print(where_and_what())
    ways = ("plain", "float32", "bfloat16")
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            found[way].append(measure_apart(way)["rate"])
    rates = {way: median(values) for way, values in found.items()}
    print("\n| efficientnet_lite0 | patches a CPU s | x of plain |\n|---|---|---|")
    for way, rate in rates.items():
        print(f"| {way} | {rate:.1f} | {rate / rates['plain']:.1f} |", flush=True)
    print("\n| ViT-L | patches a CPU s | GFLOP a CPU s | % of the product's |\n|---|---|---|---|")
    for way in ways[1:]:
        each = [measure_apart(f"vit {way}") for _ in range(3)]
        rate, peak = (median(run[name] for run in each) for name in ("rate", "peak"))
        print(
            f"| {way} | {rate:.2f} | {rate * VIT_GFLOP:.0f} "
            f"| {100 * rate * VIT_GFLOP / peak:.0f} |",
            flush=True,
        )


def measure_apart(way: str) -> dict[str, float]:
    """Return what a process of its own measures."""
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    done = subprocess.run(
        [sys.executable, __file__, "--measure", way],
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(way: str) -> dict[str, float]:
    """Measure one way in this process."""
    if way != "plain":
        prepare_process()
    import numpy as np

    shape = (PLAIN_BATCH if way == "plain" else BATCH, 224, 224, 3)
    patches = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if way == "plain":
        return {"rate": PLAIN_BATCH / best_of(BATCHES, plain(patches))}
    encoder = build(way.removeprefix("vit "), vit=way.startswith("vit"))
    if not way.startswith("vit"):
        return {"rate": BATCH / best_of(BATCHES, lambda: encoder(patches))}
    rate = VIT_BATCH / best_of(2, lambda: encoder(patches[:VIT_BATCH]))
    return {"rate": rate, "peak": product_gflop_rate(encoder.precision)}


def best_of(count: int, step: Callable[[], object]) -> float:
    """Return the CPU seconds of a step when nobody disturbs it, once memory has been laid out."""
    for _ in range(WARM_UP):
        step()
    spent = []
    for _ in range(count):
        started = cpu_seconds()
        step()
        spent.append(cpu_seconds() - started)
    return min(spent)


def plain(patches: Any) -> Callable[[], object]:
    """Return a step of timm's network as it comes, fed with numbers that are ready."""
    import timm
    import torch

    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    network.eval()
    images = torch.from_numpy(patches).permute(0, 3, 1, 2).float().contiguous().div(255)

    def step() -> None:
        with torch.inference_mode():
            network(images)

    return step


def build(precision: str, *, vit: bool, device: str = "cpu") -> Any:
    """Return our encoder; a ViT-L has random weights, the same each time."""
    import torch

    from model.encoder import Encoder, build_network, load_encoder
    from model.encoders import ENCODERS

    spec = ENCODERS["uni" if vit else "efficientnet_lite0"]
    spec = spec.model_copy(update={"precision": precision})
    if not vit:
        return load_encoder(spec, weights_dirs=[], device=torch.device(device))
    torch.manual_seed(0)
    network = build_network(spec)
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, LAYER_SCALE)
    return Encoder(spec, network, Path(), torch.device(device))


def product_gflop_rate(precision: str) -> float:
    """Return GFLOP a CPU second of one large product, its weights laid out beforehand."""
    import torch

    from model.precision import PackedLinear

    rows, inputs, outputs = PRODUCT
    dtype = getattr(torch, precision)
    layer = PackedLinear(torch.nn.Linear(inputs, outputs, dtype=dtype).requires_grad_(False))
    values = torch.randn(rows, inputs, dtype=dtype)
    return 2 * rows * inputs * outputs / 1e9 / best_of(10, lambda: layer(values))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
