"""Exactly what the Dockerfile copies, in an empty folder, scores a job."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import read_answer

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "test" / "input" / "interface_0"
TRAINING = {"train", "pandas", "lifelines", "sksurv", "sklearn", "scipy", "matplotlib"}
OTHER_COMMANDS = {"pyarrow", "h5py", "ray", "captum", "jinja2", "starlette", "uvicorn"}

# The door, and then what it has loaded by its last line.
PROBE = """
import importlib.util, sys, inference, model
code = inference.main(sys.argv[1:])
assert importlib.util.find_spec("train") is None
print("model:", *model.__path__)
print("modules:", *{name.partition(".")[0] for name in sys.modules})
raise SystemExit(code)
"""


def copied_paths() -> list[tuple[str, str]]:
    """Return source and target of each COPY of the Dockerfile."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    lines = re.findall(r"^\s*(?:COPY|ADD)\s+(.+)$", dockerfile, re.MULTILINE | re.IGNORECASE)
    return [tuple(line.split()) for line in lines]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a folder with what the image has in /opt/app."""
    folder = tmp_path / "app"
    for source, target in copied_paths():
        path = ROOT / source
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(path, folder / target, ignore=ignored)
        else:
            (folder / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / target)
    return folder


def test_the_image_holds_the_program_and_nothing_else() -> None:
    sources = {source.rstrip("/") for source, _ in copied_paths()}
    assert sources == {"inference.py", "model", "resources", "requirements.txt"}


def test_it_starts_the_images_program_from_any_folder() -> None:
    """Apptainer starts in the folder of its user, which may hold another inference.py."""
    (start,) = re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert json.loads(start) == ["python", "/opt/app/inference.py"]


def test_the_containers_user_may_read_every_file(image: Path) -> None:
    """The build keeps the files' modes, and the platform chooses the user."""
    kept_from_others = [path for path in image.rglob("*") if not path.stat().st_mode & 0o004]
    assert kept_from_others == []


@pytest.mark.slow
def test_the_image_scores_a_job_without_anything_that_only_training_needs(
    tmp_path: Path, image: Path
) -> None:
    files = sorted(image.rglob("*"))
    output = tmp_path / "output"
    done = subprocess.run(
        # -B: no byte code is written; -s, -E: no other folder of modules than the installed ones.
        [sys.executable, "-BsE", "-c", PROBE, "--input", str(SAMPLE), "--output", str(output)],
        cwd=image,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < read_answer(output) < 250
    *_, found, loaded = done.stdout.splitlines()
    assert found == f"model: {image / 'model'}"
    modules = set(loaded.removeprefix("modules: ").split())
    assert {"torch", "timm", "openslide", "inference"} <= modules
    assert modules & (TRAINING | OTHER_COMMANDS) == set()
    assert sorted(image.rglob("*")) == files
