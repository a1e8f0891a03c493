"""The steps of the challenge's second place: write coordinates, reopen, read, resize, encode.

Without the tissue detection, which is spared it; the encoder is timm's network as it comes.
"""

import tempfile
from pathlib import Path
from typing import Any

from protocol import Plan, Reader, run

BATCH = 32


def load() -> Reader:
    """Return the embedding of a slide."""
    import numpy as np
    import timm
    import torch
    from openslide import OpenSlide

    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    network.eval()

    def patch_at(slide: OpenSlide, plan: Plan, corner: list[int]) -> Any:
        size = (plan.side_px, plan.side_px)
        patch = slide.read_region(tuple(corner), plan.level, size).convert("RGB")
        patch = patch.resize((plan.size_px, plan.size_px))
        pixels = torch.from_numpy(np.array(patch)).permute(2, 0, 1)
        return pixels.float().div(255).sub(0.5).div(0.5)

    def embed(path: Path, plan: Plan) -> int:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            np.save(Path(folder) / "coords.npy", np.array(plan.coords))
            corners = np.load(Path(folder) / "coords.npy").tolist()
            embeddings = []
            with OpenSlide(path) as slide:
                for at in range(0, len(corners), BATCH):
                    batch = [patch_at(slide, plan, corner) for corner in corners[at : at + BATCH]]
                    embeddings.append(network(torch.stack(batch)))
            np.save(Path(folder) / "bag.npy", torch.cat(embeddings).numpy())
        return len(corners)

    return embed


if __name__ == "__main__":
    run("timm", load)
