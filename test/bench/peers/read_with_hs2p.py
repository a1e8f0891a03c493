"""hs2p: its own tissue rule and grid, then its patches, through the backend it chooses itself."""

from pathlib import Path

from protocol import Plan, Reader, run

TOLERANCE = 0.05


def load() -> Reader:
    """Return the reading of a slide."""
    from hs2p import SegmentationConfig, SlideSpec, TilingConfig, tile_slide
    from hs2p.wsi import iter_tile_arrays_from_result

    def read(path: Path, plan: Plan) -> int:
        tiling = TilingConfig(
            requested_spacing_um=plan.mpp,
            requested_tile_size_px=plan.size_px,
            tolerance=TOLERANCE,
            overlap=0.0,
        )
        slide = SlideSpec(sample_id=path.stem, image_path=path, spacing_at_level_0=plan.slide_mpp)
        found = tile_slide(slide, tiling=tiling, segmentation=SegmentationConfig(method="hsv"))
        return sum(1 for _ in iter_tile_arrays_from_result(result=found))

    return read


if __name__ == "__main__":
    run("hs2p", load)
