"""Importing a checkpoint: what is unpickled, and files that are not what they should be."""

from collections import UserList
from collections.abc import Callable
from pathlib import Path

import joblib  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pytest
import torch
from foreign_checkpoint import RANK, SLIDE, Foreign, fail, imported, our_risk, preprocessor
from sklearn.compose import ColumnTransformer, _column_transformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model.errors import BundleError, ConfigError, TriSurvError
from train.importer import import_checkpoint


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self.path,)


def test_nothing_is_read_without_the_users_trust(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "pg")
    for name in ("s_0_checkpoint.pt", "km_curve.pkl", "clinical_preprocessor.pkl"):
        joblib.dump(Bomb(tmp_path / "bang"), foreign.folder / name)
    with pytest.raises(ConfigError, match="results: expected --trust-pickle, as") as caught:
        import_checkpoint(foreign.folder, trust_pickle=False, warn=fail, output=tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_the_weights_are_never_unpickled(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "pg")
    torch.save({"a": Bomb(tmp_path / "bang")}, foreign.folder / "s_0_checkpoint.pt")
    with pytest.raises(BundleError, match=r"\.pt: expected a file of tensors, found one that "):
        imported(foreign, tmp_path / "bundle")
    assert not (tmp_path / "bang").exists()


def test_the_user_is_told_of_pickles_and_of_ties(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "pg")
    told: list[str] = []
    import_checkpoint(foreign.folder, trust_pickle=True, warn=told.append, output=tmp_path / "out")
    assert told[0] == (
        f"{foreign.folder}: unpickling clinical_preprocessor.pkl, km_curve.pkl, "
        "which can run any code"
    )
    times = [foreign.time(risk) for risk in foreign.curve["train_risks"].tolist()]
    most = max(set(times), key=times.count)
    assert times.count(most) > 5
    assert told[1] == (
        f"km_curve.pkl: {times.count(most)} of 40 training cases share one predicted time, "
        f"{most:g} months; they have {len(set(times))} different ones in all"
    )
    assert not any("\n" in text for text in told)
    assert [text.split(":")[0] for text in told[2:]] == [
        "km_curve.pkl",
        "slides",
        "RNA",
        "clinical",
    ]


@pytest.mark.parametrize(
    ("name", "used"),
    [("img", ["slides"]), ("imgrna", ["slides", "RNA"]), ("rnacli", ["RNA", "clinical"])],
)
def test_the_user_is_told_of_what_the_model_uses_alone(
    tmp_path: Path, name: str, used: list[str]
) -> None:
    foreign = Foreign(tmp_path / "results", name)
    told: list[str] = []
    import_checkpoint(foreign.folder, trust_pickle=True, warn=told.append, output=tmp_path / "out")
    assert [text.split(":")[0] for text in told[3:]] == used


def test_a_preprocessor_of_another_scikit_learn_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickles of scikit-learn 1.5 name a class that 1.9 does not have."""
    foreign = Foreign(tmp_path / "results", "rnacli")
    gone = type("_Gone", (UserList,), {"__module__": _column_transformer.__name__})
    with monkeypatch.context() as patch:
        patch.setattr(_column_transformer, "_Gone", gone, raising=False)
        foreign.preprocessor.transformers_[-1] = ("remainder", "drop", gone(["progression"]))
        foreign.write()
    path = foreign.folder / "clinical_preprocessor.pkl"
    with pytest.raises(AttributeError, match="_Gone"):
        joblib.load(path)
    bundle = imported(foreign, tmp_path / "bundle")
    case, bag = foreign.case()
    assert bundle.members[0].clinical is not None
    assert len(bundle.members[0].clinical.categories) == 11
    assert np.isfinite(our_risk(bundle, case, bag))


def without_layer(foreign: Foreign) -> None:
    del foreign.state["fuse_hc.f2.weight"]
    foreign.write()


def with_residual(foreign: Foreign) -> None:
    foreign.state["residual_proj.weight"] = torch.zeros(3, 4)
    foreign.write()


def with_other_shapes(foreign: Foreign) -> None:
    foreign.state["fuse_hc.f1.weight"] = torch.zeros(RANK, SLIDE + 1)
    foreign.write()


def with_flat_tensor(foreign: Foreign) -> None:
    foreign.state["attention_net.0.weight"] = torch.zeros(SLIDE)
    foreign.write()


def with_other_encoder(foreign: Foreign) -> None:
    foreign.state["attention_net.0.weight"] = torch.zeros(SLIDE, 768)
    foreign.write()


def with_fewer_columns(foreign: Foreign) -> None:
    foreign.columns = foreign.columns[:5]
    foreign.preprocessor = preprocessor(foreign.columns, foreign.rng)
    foreign.write()


def with_like_categories(foreign: Foreign) -> None:
    table = pd.DataFrame({"sex": ["male", "Male"], "age": [1.0, 2.0]})
    transformers = [("num", StandardScaler(), ["age"]), ("cat", OneHotEncoder(), ["sex"])]
    foreign.preprocessor = ColumnTransformer(transformers).fit(table)
    foreign.write()


def with_imputer(foreign: Foreign) -> None:
    table = pd.DataFrame({"age": [1.0, 2.0]})
    foreign.preprocessor = ColumnTransformer([("num", SimpleImputer(), ["age"])]).fit(table)
    foreign.write()


def with_scaler_of_another_kind(foreign: Foreign) -> None:
    table = pd.DataFrame({"age": [1.0, 2.0]})
    scaler = StandardScaler(with_std=False)
    foreign.preprocessor = ColumnTransformer([("num", scaler, ["age"])]).fit(table)
    foreign.write()


def put(name: str, content: bytes) -> Callable[[Foreign], None]:
    def write(foreign: Foreign) -> None:
        (foreign.folder / name).write_bytes(content)

    return write


def drop(name: str) -> Callable[[Foreign], None]:
    return lambda foreign: (foreign.folder / name).unlink()


def put_curve(**changes: object) -> Callable[[Foreign], None]:
    def write(foreign: Foreign) -> None:
        joblib.dump({**foreign.curve, **changes}, foreign.folder / "km_curve.pkl")

    return write


FAULTS: dict[str, tuple[Callable[[Foreign], None], str]] = {
    "no weights": (
        drop("s_0_checkpoint.pt"),
        "s_0_checkpoint.pt: expected a file of tensors, found no file",
    ),
    "no genes": (
        drop("gene_order.json"),
        "gene_order.json: expected a file of the pg checkpoint, found none",
    ),
    "no clinical pickle": (
        drop("clinical_preprocessor.pkl"),
        "clinical_preprocessor.pkl: expected a file of the pg checkpoint, found none",
    ),
    "no curve": (
        drop("km_curve.pkl"),
        "km_curve.pkl: expected a file of the pg checkpoint, found none",
    ),
    "weights that are no tensors": (
        lambda foreign: torch.save([1, 2], foreign.folder / "s_0_checkpoint.pt"),
        "s_0_checkpoint.pt: expected a dict of tensors, found a list of other things",
    ),
    "weights that are text": (
        put("s_0_checkpoint.pt", b"weights"),
        "s_0_checkpoint.pt: expected a file of tensors, found one that cannot be read",
    ),
    "a layer too few": (
        without_layer,
        "expected the 34 tensors of pg, found 33; only in one of the two: fuse_hc.f2.weight",
    ),
    "a layer of another model": (
        with_residual,
        "expected the layers of abmil, pg, img, imgcli, imgrna, rnacli, found attention_net, "
        "classifier, fuse_hc, fuse_hr, fuse_rc, residual_proj, rna_encoder",
    ),
    "other shapes": (with_other_shapes, "s_0_checkpoint.pt: expected tensors of shapes that fit"),
    "a flat tensor": (with_flat_tensor, "s_0_checkpoint.pt: expected tensors of shapes that fit"),
    "another encoder": (
        with_other_encoder,
        "expected embeddings of width 1024 (uni) or 1536 (gigapath), found 768",
    ),
    "genes that are none": (
        put("gene_order.json", b"{}"),
        "gene_order.json: expected a list of gene symbols, found something else",
    ),
    "genes that are no JSON": (
        put("gene_order.json", b"[,"),
        "gene_order.json: expected valid JSON",
    ),
    "genes too few": (
        put("gene_order.json", b'["TP53"]'),
        "gene_order.json: expected the checkpoint's 120 genes, found 1",
    ),
    "a clinical pickle of text": (
        put("clinical_preprocessor.pkl", b"nothing"),
        "clinical_preprocessor.pkl: expected a pickle as joblib writes it, found what cannot be",
    ),
    "an empty clinical pickle": (
        put("clinical_preprocessor.pkl", b""),
        "clinical_preprocessor.pkl: expected a pickle as joblib writes it, found what cannot be",
    ),
    "a clinical pickle of something else": (
        lambda foreign: joblib.dump({"a": 1}, foreign.folder / "clinical_preprocessor.pkl"),
        "clinical_preprocessor.pkl: expected two lists of columns and a fitted ColumnTransformer",
    ),
    "clinical columns too few": (
        with_fewer_columns,
        "clinical_preprocessor.pkl: expected the checkpoint's 27 columns, found 13",
    ),
    "categories that differ in case": (
        with_like_categories,
        "expected categories of sex that differ in more than their case, found 'Male', 'male'",
    ),
    "an imputer": (
        with_imputer,
        "expected a StandardScaler and a OneHotEncoder, found SimpleImputer",
    ),
    "a scaler that does not scale": (
        with_scaler_of_another_kind,
        "clinical_preprocessor.pkl: expected two lists of columns and a fitted ColumnTransformer",
    ),
    "a curve without risks": (
        put_curve(train_risks=None),
        "km_curve.pkl: expected a row of finite numbers 'train_risks', found none",
    ),
    "a curve of text": (
        put_curve(km_times=np.array(["a"])),
        "km_curve.pkl: expected a row of finite numbers 'km_times', found none",
    ),
    "a curve that rises": (
        put_curve(km_times=np.array([0.0, 1.0, 2.0]), km_probs=np.array([1.0, 0.5, 0.7])),
        "km_curve.pkl: the risk-to-time mapping (km_nearest) needs a survival that falls from 1",
    ),
    "a curve of two lengths": (
        put_curve(km_times=np.array([0.0, 1.0])),
        "km_curve.pkl: ",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_a_file_that_does_not_fit_is_one_line(
    tmp_path: Path, spoil: Callable[[Foreign], None], message: str
) -> None:
    foreign = Foreign(tmp_path / "results", "pg")
    spoil(foreign)
    with pytest.raises(TriSurvError) as caught:
        imported(foreign, tmp_path / "bundle")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()
