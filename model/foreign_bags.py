"""Bags that other programs have made, in place of slides: CHIMERA's organisers, CLAM, TRIDENT.

Sources: DIAGNijmegen/CHIMERA `common/src/features/pathology/main.py`, mahmoodlab/CLAM
`extract_features_fp.py` and `wsi_core/WholeSlideImage.py`, mahmoodlab/TRIDENT
`trident/wsi_objects/WSI.py` and `trident/IO.py`. Their coordinates are level-0 pixels.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch

from model.batch import Bag
from model.case import Case
from model.encoders import EncoderSpec
from model.errors import CaseError, ConfigError, Warn, about_files
from model.messages import some
from model.patches import MPP_TOLERANCE, PatchSpec
from model.slide import Slide

# Below the folder, first choice first: the former hold coordinates, the latter do not.
_FEATURES = ("h5_files/{}.h5", "{}.h5", "features/{}.pt", "pt_files/{}.pt", "{}.pt")
# Below the folder or its parent, as features often have a folder of their own.
_COORDINATES = ("coordinates/{}.npy", "patches/{}.h5", "patches/{}_patches.h5")

# What TRIDENT calls encoders that have another name here.
_ENCODER_IDS = {"uni_v1": "uni", "uni_v2": "uni2_h", "hoptimus0": "h_optimus_0"}

_UNREADABLE = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
)
_MOST_COORDINATE = 2**31


@about_files()
def find_bags(root: Path, case: Case) -> list[tuple[str, tuple[Path, ...]]]:
    """Return the name and the files of each slide's bag, no files where they are absent.

    A case that lists no slide has one bag, or none: `{id}_HE` as in CHIMERA, or `{id}`.

    Raises:
        CaseError: A folder that may hold them cannot be read.
    """
    if case.slides:
        return [(slide.path.stem, _find_bag(root, slide.path.stem)) for slide in case.slides]
    found = [(name, _find_bag(root, name)) for name in (f"{case.case_id}_HE", case.case_id)]
    return [(name, paths) for name, paths in found if paths][:1]


@about_files()
def check_slide_names(root: Path, slides: Iterable[Path]) -> None:
    """Refuse slides of one name that have one bag: nobody knows whose it is.

    Raises:
        ConfigError: There are such.
        CaseError: A folder that may hold bags cannot be read.
    """
    alike: dict[str, set[Path]] = {}
    for path in slides:
        alike.setdefault(path.stem, set()).add(path)
    for name, paths in alike.items():
        if len(paths) > 1 and len({path.resolve() for path in paths}) > 1:
            for bag in _find_bag(root, name)[:1]:
                raise ConfigError(
                    f"{bag}: expected one slide of that name, found {some(sorted(map(str, paths)))}"
                )


def _find_bag(root: Path, name: str) -> tuple[Path, ...]:
    """Return the file of a slide's features, and that of its coordinates if there is one."""
    features = [root / place.format(name) for place in _FEATURES]
    coordinates = [
        folder / place.format(name) for folder in (root, root.parent) for place in _COORDINATES
    ]
    first = [path for path in features if _is_there(path)][:1]
    return (*first, *[path for path in coordinates if _is_there(path)][:1]) if first else ()


def _is_there(path: Path) -> bool:
    """Say whether a file is there; none has a name that is too long for one."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


@dataclass(frozen=True)
class ForeignBags:
    """Converts the bags in a folder; one of `BagMaker`.

    Nobody knows which weights made them, so that the encoder's spec pins none.
    """

    root: Path
    encoder: EncoderSpec
    patches: PatchSpec

    def sources(self, case: Case) -> tuple[Path, ...]:
        """Return the files of features and coordinates; none unless all slides have theirs."""
        found = [paths for _, paths in find_bags(self.root, case)]
        return tuple(path for paths in found for path in paths) if all(found) else ()

    def make(self, case: Case, *, warn: Warn) -> Bag | None:
        """Convert a case's bags; None where the case names no slide and has none.

        Raises:
            CaseError: A slide's bag is absent or damaged.
            ConfigError: The bags are of another encoder or of other patches.
        """
        bags = []
        for index, (name, paths) in enumerate(find_bags(self.root, case)):
            if not paths:
                raise CaseError(self.root, expected=f"a bag named {name}", found="none")
            embeddings, coords, stated = _read(paths)
            slide = case.slides[index].path if case.slides else None
            stated = _with_mpp(stated, slide, case.default_mpp, warn=warn)
            self._check_encoder(paths[0], embeddings.shape[1], stated)
            self._check_patches(paths[0], stated, warn=warn)
            if coords is None:
                warn(f"{self.root}: bags without coordinates; all patches are put at 0, 0")
                coords = torch.zeros(len(embeddings), 2, dtype=torch.int64)
            taken = self.patches.taken_of(len(embeddings))
            embeddings, coords = embeddings[taken], coords[taken]
            bags.append(Bag(embeddings, coords, torch.full((len(embeddings),), index)))
        return Bag.join(bags) if bags else None

    def _check_encoder(self, path: Path, width: int, stated: "_Stated") -> None:
        wanted = self.encoder
        if width != wanted.width or (stated.encoder or wanted.id) != wanted.id:
            of = f" of {stated.encoder}" if stated.encoder else ""
            raise ConfigError(
                f"{path}: expected embeddings of encoder {wanted.id} (width {wanted.width}), "
                f"found width {width}{of}"
            )

    def _check_patches(self, path: Path, stated: "_Stated", *, warn: Warn) -> None:
        spec = self.patches
        size_px, mpp = stated.size_px or spec.size_px, stated.mpp or spec.mpp
        stride_px = stated.stride_px or spec.stride_px
        same_mpp = abs(mpp - spec.mpp) <= MPP_TOLERANCE * spec.mpp
        if (size_px, stride_px) != (spec.size_px, spec.stride_px) or not same_mpp:
            raise ConfigError(
                f"{path}: expected patches of {spec.size_px} px every "
                f"{spec.stride_px} px at {spec.mpp:g} µm/px, found {size_px} px every "
                f"{stride_px} px at {mpp:.3g} µm/px"
            )
        if stated.size_px is None or stated.mpp is None:
            warn(
                f"{self.root}: bags that do not state the size of patches in full; taken for "
                f"{spec.size_px} px at {spec.mpp:g} µm/px"
            )
        if size_px != self.encoder.size_px and size_px % self.encoder.token_px == 0:
            warn(
                f"{self.root}: patches of {size_px} px, which most programs shrink to "
                f"{self.encoder.size_px} px before they embed them, and the Predictor does not"
            )


# -- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stated:
    """What files say of their patches, None where they are silent.

    Attributes:
        size_px: Side of a patch, in the patch's own pixels.
        stride_px: Step of the grid, likewise.
        mpp: Micrometres per such pixel.
        downsample: Level-0 pixels per such pixel.
        encoder: Our id of it, or a foreign name of one that is not here.
    """

    size_px: int | None = None
    stride_px: int | None = None
    mpp: float | None = None
    downsample: float | None = None
    encoder: str | None = None


def _read(paths: Sequence[Path]) -> tuple[torch.Tensor, torch.Tensor | None, _Stated]:
    """Return a slide's embeddings (N, D), coords (N, 2) and what the files say of its patches.

    Raises:
        CaseError: They are damaged, or do not fit together.
    """
    where = " and ".join(map(str, paths))
    try:
        parts = [_read_file(path) for path in paths]
        embeddings = torch.as_tensor(parts[0]["features"]).to_dense().float()
        coords = next((part["coords"] for part in parts if "coords" in part), None)
        if coords is not None:
            if not (np.abs(coords) < _MOST_COORDINATE).all():
                raise ValueError("coordinates that are no pixels of a slide")
            coords = torch.as_tensor(coords.astype(np.int64))
        # The file of the features knows better than one beside it.
        stated = _stated({name: part[name] for part in reversed(parts) for name in part})
    except _UNREADABLE as error:
        reason = f"{type(error).__name__} ({str(error).partition(chr(10))[0]})"
        raise CaseError(where, expected="a readable bag", found=reason) from error
    if embeddings.ndim == 3 and len(embeddings) == 1:
        embeddings = embeddings[0]  # as some programs keep a batch of one slide
    if embeddings.ndim != 2 or not len(embeddings):
        shape = tuple(embeddings.shape)
        raise CaseError(where, expected="one embedding per patch", found=f"shape {shape}")
    if not embeddings.isfinite().all():
        raise CaseError(where, expected="finite embeddings", found="NaN or infinity")
    if coords is not None and coords.shape != (len(embeddings), 2):
        raise CaseError(
            where,
            expected=f"coordinates of {len(embeddings):,} patches",
            found=f"shape {tuple(coords.shape)}",
        )
    return embeddings, coords, stated


def _read_file(path: Path) -> dict[str, Any]:
    """Return features and coords, as far as a file has them, and its attributes by name."""
    if path.suffix == ".pt":
        return {"features": torch.load(path, map_location="cpu", weights_only=True)}
    if path.suffix == ".npy":
        table = np.load(path, allow_pickle=False)
        attributes = {name: table[name][0] for name in table.dtype.names}
        return attributes | {"coords": np.stack([table["x"], table["y"]], axis=1)}
    with h5py.File(path) as file:
        names = [name for name in ("features", "coords") if name in file]
        attributes = {key: value for name in names for key, value in file[name].attrs.items()}
        return attributes | {name: file[name][...] for name in names}


def _stated(attributes: Mapping[str, Any]) -> _Stated:
    if "target_spacing" in attributes:  # CHIMERA
        resized = float(attributes["tile_size_resized"]) / float(attributes["resize_factor"])
        return _Stated(size_px=round(resized), mpp=float(attributes["target_spacing"]))
    if "target_magnification" in attributes:  # TRIDENT
        size_px, name = int(attributes["patch_size"]), attributes.get("encoder")
        name = name.decode() if isinstance(name, bytes) else name
        return _Stated(
            size_px=size_px,
            stride_px=size_px - int(attributes.get("overlap", 0)),
            mpp=10 / float(attributes["target_magnification"]),
            encoder=None if name is None else _ENCODER_IDS.get(str(name), str(name)),
        )
    if "downsample" in attributes:  # CLAM, one factor each for x and y
        downsample = float(np.ravel(attributes["downsample"])[0])
        return _Stated(size_px=int(attributes["patch_size"]), downsample=downsample)
    return _Stated()


def _with_mpp(
    stated: _Stated, slide: Path | None, default_mpp: float | None, *, warn: Warn
) -> _Stated:
    """Work the pixel size out with the slide, where the files have a factor to its level 0."""
    if stated.mpp or not stated.downsample or slide is None or not slide.is_file():
        return stated
    with Slide.open(slide, default_mpp=default_mpp, warn=warn) as opened:
        return replace(stated, mpp=opened.mpp * stated.downsample)
