"""Encoding on a GPU: UNI's ViT-L against the card's own product, and fed by the reader.

Random weights. Wall seconds, since a GPU has no others; each way is warm and waits for the GPU to
end. Where there is no GPU it says so and ends; `--device cpu` tries the program, and measures
nothing of interest.

Run as `PYTHONPATH=. python test/bench/gpu.py [--device DEVICE] [--batches N ...] [--side PX]`.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import torch
from encoding import VIT_GFLOP, build
from helpers.bags import embed
from helpers.measure import ROUNDS, start_again_with_settings, where_and_what
from helpers.texture import write_slide
from torch.nn.functional import cosine_similarity

from model.encoder import Encoder
from model.patches import PatchSpec, patch_grid
from model.pixels import TiledSource
from model.precision import nearest_precision
from model.slide import Slide
from model.stages import profiled
from model.tissue_mask import TissueMask

SPEC = PatchSpec()
MPP = 0.25
SLIDES = {"with a level at 1 µm/px": (1, 4, 16), "without": (1, 16)}
PRODUCT_SIDE = {"cuda": 8192, "cpu": 1024}
COMPILED = {"compile": "default", "compile, CUDA graphs": "reduce-overhead"}
"""Ways beside the encoder as it is, and `torch.compile`'s name of each."""


def main(device: torch.device, batches: list[int], side_px: int) -> None:
    """Measure, print."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where_and_what()}, torch {torch.__version__}, {name}")
    precision = nearest_precision("bfloat16", device)
    peak = product_tflops(device, getattr(torch, precision))
    print(f"one product of {PRODUCT_SIDE[device.type]}³ in {precision}: {peak:.1f} TFLOP/s\n")
    print("| way | batch | patches a second | TFLOP/s | % of the product | least cosine |")
    print("|---|---|---|---|---|---|")
    rates: dict[int, float] = {}
    for batch in batches:
        for way in ("as it is", *(COMPILED if device.type == "cuda" else ())):
            rate, cosine = encoding_rate(way, precision, device, batch)
            if way == "as it is":
                rates[batch] = rate
            tflops = rate * VIT_GFLOP / 1e3
            share = 100 * tflops / peak
            row = f"{rate:.1f} | {tflops:.1f} | {share:.0f} | {cosine:.5f}"
            print(f"| {way} | {batch} | {row} |", flush=True)
    print("\n| slide to bag | batch | patches | s | % of the time at encoding | % of the rate |")
    print("|---|---|---|---|---|---|")
    encoder = build(precision, vit=True, device=device.type)
    with tempfile.TemporaryDirectory() as folder:
        for title, downsamples in SLIDES.items():
            path = Path(folder) / "slide.tif"
            write_slide(path, side_px, MPP, downsamples=downsamples)
            for batch in batches:
                row = slide_to_bag(path, encoder, batch, rates[batch])
                print(f"| {title} | {batch} | {row} |", flush=True)


def product_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """Return TFLOP a second of one large product of random numbers."""
    side = PRODUCT_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / 1e12 / seconds_of(lambda: left @ right, device)


def encoding_rate(
    way: str, precision: str, device: torch.device, batch: int
) -> tuple[float, float]:
    """Return patches a second, and the least cosine of an embedding with that in float32."""
    patches = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    encoder, exact = (build(kind, vit=True, device=device.type) for kind in (precision, "float32"))
    if way in COMPILED:
        network = encoder._network
        network.forward_features = torch.compile(network.forward_features, mode=COMPILED[way])
    cosine = cosine_similarity(encoder(patches), exact(patches)).min().item()
    return batch / seconds_of(lambda: encoder(patches), device), cosine


def slide_to_bag(path: Path, encoder: Encoder, batch: int, rate: float) -> str:
    """Return a row: how far the GPU waits for the reader."""
    with closing(TiledSource(path)) as source:
        slide = Slide(path, source, MPP)
        coords = patch_grid(slide, TissueMask.detect(slide), SPEC)
        started = time.perf_counter()
        with profiled(io.StringIO()) as profile:
            embed(encoder, slide, coords, SPEC, batch)
        wall = time.perf_counter() - started
    assert profile is not None
    busy = 100 * profile.busy["encode"] / wall
    return f"{len(coords):,} | {wall:.2f} | {busy:.0f} | {100 * len(coords) / rate / wall:.0f}"


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Return the median wall seconds of a warm step."""
    spent = []
    for index in range(ROUNDS + 2):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 2:
            spent.append(time.perf_counter() - started)
    return median(spent)


if __name__ == "__main__":
    start_again_with_settings({"OMP_WAIT_POLICY": "PASSIVE"})
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--side", type=int, default=30_000)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch finds no GPU here")
    else:
        main(torch.device(options.device), options.batches, options.side)
