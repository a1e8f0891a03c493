"""tiffslide: a patch after the other, at given places."""

from pathlib import Path

from protocol import Plan, Reader, run


def load() -> Reader:
    """Return the reading of a slide."""
    import numpy as np
    from PIL import Image
    from tiffslide import TiffSlide

    def read(path: Path, plan: Plan) -> int:
        size = (plan.side_px, plan.side_px)
        with TiffSlide(path) as slide:
            for corner in plan.coords:
                patch = slide.read_region(tuple(corner), plan.level, size)
                if plan.side_px != plan.size_px:
                    patch = patch.resize((plan.size_px, plan.size_px), Image.Resampling.BOX)
                np.asarray(patch)
        return len(plan.coords)

    return read


if __name__ == "__main__":
    run("tiffslide", load)
