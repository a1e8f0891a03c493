"""Make test/input/interface_0: a Grand Challenge job as it arrives, of one simulated patient.

Run as `python test/make_sample_job.py FOLDER`; a test repeats it.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from job_files import (
    CLINICAL,
    MASK,
    MASK_UUID,
    PATHS,
    RNA,
    SLIDE,
    SLIDE_UUID,
    socket_item,
    write_inputs,
)

from train.simulate import SimulateConfig, simulate_cohort

SAMPLE = SimulateConfig(cases=1, seed=2026, centre_b=0, width_um=1536)


def make_sample_job(job: Path) -> None:
    """Write the job; its clinical record has no label, as on the platform."""
    with tempfile.TemporaryDirectory() as scratch:
        simulate_cohort(Path(scratch), SAMPLE, progress=lambda done, total: None)
        (folder,) = (Path(scratch) / "data").iterdir()
        stem = folder / folder.name
        copies = {
            f"{stem}_HE.tif": job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif",
            f"{stem}_HE_mask.tif": job / PATHS[MASK] / f"{MASK_UUID}.tif",
            f"{stem}_RNA.json": job / PATHS[RNA],
        }
        for source, target in copies.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        record = json.loads(Path(f"{stem}_CD.json").read_text())
    for label in ("progression", "Time_to_prog_or_FUend"):
        del record[label]
    (job / PATHS[CLINICAL]).write_text(json.dumps(record, indent=2) + "\n")
    names = {SLIDE: (SLIDE_UUID, "3A_001_HE.tif"), MASK: (MASK_UUID, "3A_001_HE_mask.tif")}
    items = []
    for slug, path in PATHS.items():
        item = socket_item(slug, path)
        if slug in names:
            uuid, name = names[slug]
            item["image"] = {"pk": uuid, "name": name}
        items.append(item)
    write_inputs(job, items)


if __name__ == "__main__":
    make_sample_job(Path(sys.argv[1]))
