"""TriSurv from slide to bag, in float32, or in the precision that TRISURV_BENCH_PRECISION names."""

import os
from pathlib import Path

from protocol import Plan, Reader, run


def load() -> Reader:
    """Return the embedding of a slide."""
    from model.process import prepare_process

    prepare_process()
    import torch

    from model.case import Case, SlideFile
    from model.encoder import load_encoder
    from model.encoders import ENCODERS
    from model.fusion.base import FusionConfig
    from model.patches import PatchSpec
    from model.predictor import embed_case

    precision = os.environ.get("TRISURV_BENCH_PRECISION", "float32")
    spec = ENCODERS["efficientnet_lite0"].model_copy(update={"precision": precision})
    encoder = load_encoder(spec, weights_dirs=[], device=torch.device("cpu"))

    def embed(path: Path, plan: Plan) -> int:
        patches = PatchSpec(mpp=plan.mpp, size_px=plan.size_px, stride_px=plan.size_px)
        case = Case("bench", slides=(SlideFile(path),))
        bag = embed_case(
            case, encoder, patches, FusionConfig(), warn=print, progress=lambda done, total: None
        )
        return 0 if bag is None else len(bag.embeddings)

    return embed


if __name__ == "__main__":
    run("model", load)
