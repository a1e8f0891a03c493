"""lazyslide: its own tissue rule and grid, then its patches."""

from pathlib import Path

from protocol import Plan, Reader, run


def load() -> Reader:
    """Return the reading of a slide."""
    import lazyslide
    from wsidata import open_wsi

    def read(path: Path, plan: Plan) -> int:
        slide = open_wsi(str(path))
        slide.set_mpp(plan.slide_mpp)
        lazyslide.pp.find_tissues(slide)
        lazyslide.pp.tile_tissues(slide, plan.size_px, mpp=plan.mpp)
        return sum(1 for _ in slide.iter.tile_images("tiles"))

    return read


if __name__ == "__main__":
    run("lazyslide", load)
