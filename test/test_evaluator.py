"""The challenge's evaluator, on a set of jobs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from job_files import CHIMERA, RNA, SLIDE, no_warning
from jobs import ANSWER, record_contents, write_job
from sksurv.metrics import concordance_index_censored
from small_bundles import PANEL

from model.case import read_case, write_prediction
from model.predictor import Predictor

JOBS = 12


def evaluate(predictions: Path, truth: dict[str, tuple[bool, float]]) -> tuple[float, ...]:
    """Return (C-index, concordant, discordant, tied risk, tied time) as the challenge counts.

    Source: challenge.md, section 3, on the organisers' `Evaluation/Task_3/evaluate.py`.
    """
    event, time, predicted = [], [], []
    for job in json.loads(predictions.read_text()):
        (slide,) = [item for item in job["inputs"] if item["socket"]["slug"] == SLIDE]
        outcome = truth[slide["image"]["name"][:-4]]
        event.append(outcome[0])
        time.append(outcome[1])
        answer = predictions.parent / job["pk"] / "output" / ANSWER
        predicted.append(json.loads(answer.read_text()))
    counts = concordance_index_censored(np.array(event), np.array(time), -np.array(predicted))
    return tuple(float(count) for count in counts)


def test_the_evaluator_ranks_the_times_as_it_would_rank_the_risks(
    tmp_path: Path, contents: dict[str, Any], lenient_predictor: Predictor
) -> None:
    rng = np.random.default_rng(0)
    event, time = rng.uniform(size=JOBS) < 0.5, np.sort(rng.choice(200, JOBS, False) + 1.0)
    event[::2] = True  # so that the two patients of a pair can be compared
    truth, risks, jobs = {}, [], []
    for index in range(JOBS):
        name, pk = f"3A_{index + 1:03d}_HE", f"job-{index}"
        # Patients come in pairs that differ in one gene by a trifle, and the last pair in nothing.
        records = record_contents(seed=index // 2)
        if index % 2 and index < JOBS - 1:
            records[RNA][PANEL[0]] += 0.01
        job = write_job(tmp_path / pk / "input", contents | records, name=name)
        case = read_case(job, CHIMERA, warn=no_warning)
        assert case.case_id == name
        prediction = lenient_predictor.predict(case, progress=lambda done, total: None)
        write_prediction(prediction, CHIMERA, tmp_path / pk / "output")
        truth[name] = (bool(event[index]), float(time[index]))
        risks.append(prediction.risk)
        jobs.append({"pk": pk, "inputs": json.loads((job / "inputs.json").read_text())})
    (tmp_path / "predictions.json").write_text(json.dumps(jobs))

    score = evaluate(tmp_path / "predictions.json", truth)
    expected = concordance_index_censored(event, time, np.array(risks))
    assert score == expected
    assert len(set(risks)) == JOBS - 1
    assert score[3] == 1
    assert 0 < score[0] < 1
