"""What can be wrong with a job or a bundle: each function breaks a scene in one way."""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from job_files import (
    CLINICAL,
    MASK,
    MASK_UUID,
    PATHS,
    RNA,
    SLIDE,
    SLIDE_UUID,
    write_inputs,
    write_json,
)
from jobs import write_glass, write_job, write_pixel
from small_bundles import PANEL, build_bundle
from synthetic import write_mask_pyramid, write_striped

from model.bundle import Bundle
from model.encoders import ENCODERS


@dataclass
class Scene:
    """A whole job and the bundle that is to score it, for a fault to be put in."""

    job: Path
    bundle: Path
    contents: dict[str, Any]

    @property
    def slide(self) -> Path:
        return self.job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif"

    def rewrite(self, without: str | None = None, **contents: object) -> None:
        """Write the job anew with other contents."""
        shutil.rmtree(self.job)
        whole = self.contents | contents
        write_job(self.job, {slug: value for slug, value in whole.items() if slug != without})

    def alter_genes(self, value: object, count: int) -> None:
        genes = dict.fromkeys(PANEL[:count], value)
        write_json(self.job / PATHS[RNA], self.contents[RNA] | genes)

    def alter_bundle(self, **changes: Any) -> None:
        """Save the bundle with another manifest beside the job."""
        bundle = Bundle.load(self.bundle)
        self.bundle = self.job.parent / "altered.safetensors"
        replace(bundle, manifest=bundle.manifest.model_copy(update=changes)).save(self.bundle)

    def alter_encoder(self, **changes: Any) -> None:
        encoder = Bundle.load(self.bundle).manifest.encoder
        assert encoder is not None
        self.alter_bundle(encoder=encoder.model_copy(update=changes))


def corrupt_slide(scene: Scene) -> None:
    scene.slide.write_bytes(np.random.default_rng(0).bytes(50_000))


def damaged_tiles(scene: Scene) -> None:
    """Overwrite the pixels and leave the header and the index, which lies at the end, whole."""
    content = bytearray(scene.slide.read_bytes())
    content[1_000 : len(content) - 5_000] = bytes(len(content) - 6_000)
    scene.slide.write_bytes(content)


def truncated_slide(scene: Scene) -> None:
    content = scene.slide.read_bytes()
    scene.slide.write_bytes(content[: len(content) // 2])


def empty_slide(scene: Scene) -> None:
    scene.slide.write_bytes(b"")


def striped_slide(scene: Scene) -> None:
    write_striped(scene.slide, np.zeros((500, 500, 3), dtype=np.uint8))


def no_tissue(scene: Scene) -> None:
    write_glass(scene.slide)
    mask = scene.job / PATHS[MASK] / f"{MASK_UUID}.tif"
    write_mask_pyramid(mask, np.zeros((87, 100), dtype=bool), 4.0, downsamples=(1,))


def no_image_in_the_folder(scene: Scene) -> None:
    scene.slide.unlink()


def broken_rna(scene: Scene) -> None:
    (scene.job / PATHS[RNA]).write_text('{"A1BG": 7.6')


def broken_clinical(scene: Scene) -> None:
    (scene.job / PATHS[CLINICAL]).write_bytes(b"\xff\xfe\x00")


def clinical_list(scene: Scene) -> None:
    write_json(scene.job / PATHS[CLINICAL], [{"age": 72}])


def broken_inputs(scene: Scene) -> None:
    (scene.job / "inputs.json").write_text("[{]")


def no_job(scene: Scene) -> None:
    shutil.rmtree(scene.job)


def nan_genes(scene: Scene) -> None:
    scene.alter_genes(math.nan, 3)


def null_genes(scene: Scene) -> None:
    scene.alter_genes(None, 200)


def missing_genes(scene: Scene) -> None:
    gone = set(PANEL[:10])  # 5 % of 200
    profile = {gene: value for gene, value in scene.contents[RNA].items() if gene not in gone}
    write_json(scene.job / PATHS[RNA], profile)


def no_rna(scene: Scene) -> None:
    scene.rewrite(without=RNA)


def null_clinical(scene: Scene) -> None:
    scene.rewrite(**{CLINICAL: None})


def one_pixel_slide(scene: Scene) -> None:
    write_pixel(scene.slide)


def nothing_at_all(scene: Scene) -> None:
    build_bundle(optional=("slide", "rna", "clinical")).save(scene.job.parent / "b.safetensors")
    scene.bundle = scene.job.parent / "b.safetensors"
    write_inputs(scene.job, [])


def unwritable_output(scene: Scene) -> None:
    (scene.job.parent / "output").write_text("in the way")


def no_bundle(scene: Scene) -> None:
    scene.bundle = scene.job.parent / "none.safetensors"


def cut_bundle(scene: Scene) -> None:
    content = scene.bundle.read_bytes()
    scene.bundle = scene.job.parent / "cut.safetensors"
    scene.bundle.write_bytes(content[: len(content) // 2])


def future_bundle(scene: Scene) -> None:
    scene.alter_bundle(format=2)


def unknown_preset(scene: Scene) -> None:
    manifest = Bundle.load(scene.bundle).manifest
    scene.alter_bundle(task=manifest.task.model_copy(update={"interface": "chimera_task9"}))


def other_preprocessing(scene: Scene) -> None:
    scene.alter_encoder(mean=(0.485, 0.456, 0.406))


def other_encoder(scene: Scene) -> None:
    scene.alter_bundle(encoder=ENCODERS["resnet50"])


def other_weights(scene: Scene) -> None:
    scene.alter_encoder(weights_sha256="0" * 64)


def no_weights(scene: Scene) -> None:
    scene.bundle = scene.job.parent / "uni.safetensors"
    build_bundle(encoder="uni").save(scene.bundle)


def foreign_weights(scene: Scene) -> None:
    no_weights(scene)
    (scene.bundle.parent / "model.safetensors").write_bytes(b"<html>404</html>")
