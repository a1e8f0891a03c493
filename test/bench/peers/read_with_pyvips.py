"""pyvips: regions of a page of the TIFF, at given places; its own cache keeps the tiles."""

from pathlib import Path

from protocol import Plan, Reader, run


def load() -> Reader:
    """Return the reading of a slide."""
    import numpy as np
    import pyvips
    from PIL import Image

    def read(path: Path, plan: Plan) -> int:
        whole = pyvips.Image.new_from_file(str(path), page=0)
        page = pyvips.Image.new_from_file(str(path), page=plan.level)
        downsample = whole.width / page.width
        region, side_px = pyvips.Region.new(page), plan.side_px
        for x, y in plan.coords:
            corner = (round(x / downsample), round(y / downsample))
            pixels = region.fetch(*corner, side_px, side_px)
            patch = np.frombuffer(pixels, dtype=np.uint8).reshape(side_px, side_px, -1)
            if side_px != plan.size_px:
                size = (plan.size_px, plan.size_px)
                np.asarray(Image.fromarray(patch).resize(size, Image.Resampling.BOX))
        return len(plan.coords)

    return read


if __name__ == "__main__":
    run("pyvips", load)
