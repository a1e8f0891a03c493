"""What would be wrong with a case, told without encoding it."""

from model.bags import slide_sources
from model.case import Case
from model.cohort_bags import BagPredictor
from model.errors import Warn, about_case
from model.patches import patch_grid
from model.predictor import Predictor, use_slides
from model.slide import Slide
from model.tissue_mask import find_tissue


def check_case(predictor: Predictor, case: Case, *, warn: Warn) -> None:
    """Raise what scoring would raise, as far as it shows before a patch is encoded.

    Raises:
        CaseError: A slide, bag or record cannot be used, or a needed one is absent.
        ConfigError: A bag is of another encoder or patch spec.
        BundleError: A bag would have to be made, and the encoder's weights are not there.
    """
    with about_case(case.case_id):
        stored = predictor.stored(case, warn=warn) if isinstance(predictor, BagPredictor) else None
        has_slide = stored is not None or _check_slides(predictor, case, warn=warn)
        if stored is None and slide_sources(case):
            predictor.load_encoder()
        predictor.check_modalities(case, has_slide=has_slide)
        predictor.inputs(case, stored, warn=warn)


def _check_slides(predictor: Predictor, case: Case, *, warn: Warn) -> bool:
    """Open each slide and lay the grid over its tissue; say whether there is one of use."""
    patches = predictor.bundle.manifest.patches
    if patches is None:
        return False

    def lay_grid(index: int) -> None:
        file = case.slides[index]
        with Slide.open(file.path, default_mpp=case.default_mpp, warn=warn) as slide:
            patch_grid(slide, find_tissue(slide, file.mask, warn=warn), patches)

    return bool(use_slides(case, predictor.settings, lay_grid, warn=warn))
