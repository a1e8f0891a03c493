"""What README says of adding a fusion is done to the letter, in a copy of the tree."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from train.simulate import SimulateConfig, simulate_cohort

ROOT = Path(__file__).resolve().parent.parent
COPIED = {"model", "train", "test", "resources", "inference.py", "pyproject.toml"}

MOST_LINES = 10
"""Of the fusion that README shows, blank ones apart."""

COHORT = SimulateConfig(cases=12, width_um=448, censored=0.3, sigma=1.0, seed=3)
MY_TOML = """
output = "runs/mine"
cohort.root = "{cohort}"
rna.top_variance = 50
folds.count = 2

[fusion.settings]
slide_width = 16
attention_width = 8
rna_widths = [16, 8]

[fit]
epochs = 2
inner_folds = 0
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Recipe:
    """What README's section holds.

    Attributes:
        file: Where the code goes.
        line: What goes to the end of NAMES in `registry`.
        commands: What is run then.
    """

    code: str
    file: str
    line: str
    registry: str
    commands: list[str]

    @property
    def name(self) -> str:
        return Path(self.file).stem


def read_recipe() -> Recipe:
    (section,) = re.findall(r"(?ms)^## Add a fusion\n(.*?)^## ", (ROOT / "README.md").read_text())
    (code,) = re.findall(r"(?s)```python\n(.*?)```", section)
    (commands,) = re.findall(r"(?s)```\n(\.venv.*?)```", section)
    (file,) = re.findall(r"The file is `([\w/.]+)`", section)
    ((line, registry),) = re.findall(
        r"The line is `(.+?)` at the end of `NAMES` in `(.+?)`", section
    )
    return Recipe(code, file, line, registry, commands.splitlines())


def leave_out(folder: str, names: list[str]) -> set[str]:
    """Return what is not copied: all but the program, its tests and what they need."""
    unwanted = {"__pycache__", "output", "encoders"}
    return set(names) - COPIED if Path(folder) == ROOT else set(names) & unwanted


def run(command: str, tree: Path) -> str:
    """Run a line of README in the copy, with this Python in place of that of `make`."""
    python, *arguments = shlex.split(command)
    assert python == ".venv/bin/python"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_fusion_is_added_as_readme_says(tmp_path: Path) -> None:
    recipe, tree = read_recipe(), tmp_path / "tree"
    assert len([line for line in recipe.code.splitlines() if line.strip()]) <= MOST_LINES

    shutil.copytree(ROOT, tree, ignore=leave_out)
    assert not (tree / recipe.file).exists()
    (tree / recipe.file).write_text(recipe.code)
    before = (tree / recipe.registry).read_text()
    after, times = re.subn(r"(?ms)^(NAMES = \(\n.*?)^\)", rf"\1    {recipe.line}\n)", before)
    assert times == 1
    (tree / recipe.registry).write_text(after)

    simulate_cohort(tmp_path / "cohort", COHORT, progress=lambda done, total: None)
    (tree / "my.toml").write_text(MY_TOML.format(cohort=tmp_path / "cohort"))
    test, fit = recipe.commands
    passed = re.search(r"(\d+) passed", run(test, tree))
    assert passed
    assert int(passed[1]) > 20
    assert "out-of-fold C-index" in run(fit, tree)

    assert f"\n{recipe.name}\n  modalities  slide, rna, clinical\n" in run(
        ".venv/bin/python -m train models", tree
    )
    told = run(
        ".venv/bin/python inference.py --input test/input/interface_0 --output answer "
        f"--bundle runs/{recipe.name}/bundle.safetensors",
        tree,
    )
    assert f": {recipe.name}, 2 members" in told
    (answer,) = (tree / "answer").iterdir()
    assert 0 < json.loads(answer.read_text()) < 300
