"""TriSurv: tissue, grid and patches, from opening the slide on. Needs PYTHONPATH to be its root."""

from pathlib import Path

from protocol import Plan, Reader, run


def load() -> Reader:
    """Return the reading of a slide."""
    from model.patches import PatchSpec, patch_grid, read_patches
    from model.slide import Slide
    from model.tissue_mask import TissueMask

    def read(path: Path, plan: Plan) -> int:
        spec = PatchSpec(mpp=plan.mpp, size_px=plan.size_px, stride_px=plan.size_px)
        with Slide.open(path, default_mpp=plan.slide_mpp, warn=print) as slide:
            coords = patch_grid(slide, TissueMask.detect(slide), spec)
            return sum(1 for _ in read_patches(slide, coords, spec))

    return read


if __name__ == "__main__":
    run("model", load)
