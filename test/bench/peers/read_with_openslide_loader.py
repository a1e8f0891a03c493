"""OpenSlide behind a torch DataLoader with two workers: the way of most research programs."""

from pathlib import Path
from typing import Any

from protocol import Plan, Reader, run

WORKERS = 2
BATCH = 32


def load() -> Reader:
    """Return the reading of a slide."""
    import numpy as np
    import torch
    from openslide import OpenSlide
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Patches(Dataset[Any]):
        """The patches of a slide, which each worker opens for itself."""

        def __init__(self, path: Path, plan: Plan) -> None:
            self.path, self.plan = path, plan
            self.slide: Any = None

        def __len__(self) -> int:
            return len(self.plan.coords)

        def __getitem__(self, index: int) -> Any:
            self.slide = self.slide or OpenSlide(self.path)
            plan = self.plan
            size = (plan.side_px, plan.side_px)
            patch = self.slide.read_region(tuple(plan.coords[index]), plan.level, size)
            patch = patch.convert("RGB")
            if plan.side_px != plan.size_px:
                patch = patch.resize((plan.size_px, plan.size_px), Image.Resampling.BOX)
            return torch.from_numpy(np.array(patch))

    def read(path: Path, plan: Plan) -> int:
        loader = DataLoader(Patches(path, plan), batch_size=BATCH, num_workers=WORKERS)
        return sum(len(batch) for batch in loader)

    return read


if __name__ == "__main__":
    run("torch", load)
