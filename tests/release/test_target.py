"""Is a rollback target fit? What was trained is what would serve: bytes, features, code, scores."""

import copy
import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from mlct.adapters.object_store import ObjectStore
from mlct.data import snapshot
from mlct.data.digest import canonical, sha256
from mlct.errors import MlctError, RollbackRefused, TrainingError
from mlct.release.ledger import Ledger, statement
from mlct.release.slot.target import check_target
from mlct.training import fit, smoke


class Trained:
    """Versions of `m` in a ledger: each `says` what its training said, changed."""

    def __init__(self, folder):
        random = np.random.default_rng(0)
        x = random.normal(size=(80, 2))
        self.rows = pa.table({"a": x[:, 0], "b": x[:, 1], "late": (x[:, 0] > 0).astype("int8")})
        self.ledger, self.store = Ledger(folder / "ledger.db"), ObjectStore(str(folder / "store"))
        model = fit.fit(LogisticRegression(), self.rows, ["a", "b"], "late")
        self.files = fit.pack(model)
        self.artifact = fit.keep(self.store, self.files)
        self.says = {
            "model": "m",
            "version": 1,
            "artifact": self.artifact,
            "train": snapshot.write(self.store, self.rows).digest,
            "smoke": smoke.keep(self.store, self.files, self.rows),
            "feature_version": "1",
            "threshold": 0.4,
        }

    def train(self, **changes):
        says = {n: v for n, v in (self.says | changes).items() if v is not None}
        content = statement("training", {"artifact": says["artifact"]}, says)
        return self.ledger.append(content, actor="test")

    def check(self, artifact=None, **how):
        return check_target(self.ledger, self.store, artifact or self.artifact, model="m", **how)

    def unfit(self, problem, artifact=None, error=RollbackRefused, **how):
        with pytest.raises(error, match=problem) as refused:
            self.check(artifact, **how)
        assert refused.value.expected


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained(once, tmp_path):
    made = copy.copy(once)
    made.ledger = Ledger(tmp_path / "ledger.db")
    return made


def test_a_fit_target_and_what_was_verified_of_it(trained):
    trained.train()
    trained.train(version=2, artifact=sha256(b"2"), threshold=0.9)
    assert trained.check() == {
        "artifact": trained.artifact,
        "features": 2,
        "smoke_rows": 32,
        "feature_version": "1",
        "threshold": 0.4,
    }


def test_bytes_that_nobody_trained_are_unfit(trained):
    trained.train()
    trained.unfit(f"no training statement of m has the bytes {'0' * 12}", "0" * 64)


def test_features_of_other_code_are_unfit(trained):
    trained.train()
    trained.unfit("m@1 was trained with feature code '1'.* Expected '2'", feature_version="2")
    trained.train(version=2, artifact=sha256(b"2"), feature_version="2")
    trained.unfit("m@1 was trained with feature code '1'.* Expected '2'")
    assert trained.check(feature_version="1")["feature_version"] == "1"


def test_versions_from_before_all_this_was_kept_are_judged_on_the_rest(trained):
    trained.train(smoke=None, feature_version=None, threshold=None)
    found = trained.check()
    assert (found["smoke_rows"], found["feature_version"], found["threshold"]) == (0, "", None)
    trained.unfit("trained with feature code ''", feature_version="1")
    trained.train(version=2, artifact=sha256(b"2"))
    trained.unfit("trained with feature code ''")


def test_features_that_are_not_there_now_are_unfit(trained):
    trained.train()
    assert trained.check(columns=trained.rows.schema)
    trained.unfit("b", columns=trained.rows.drop(["b"]).schema, error=MlctError)
    gone = snapshot.write(trained.store, trained.rows.drop(["a"])).digest
    trained.train(version=2, artifact=sha256(b"2"), train=gone)
    trained.unfit("a", error=MlctError)


def test_other_scores_than_at_training_are_unfit(trained):
    told = json.loads(trained.store.get(trained.says["smoke"]))
    told["scores"][3] = told["scores"][4]
    trained.train(smoke=trained.store.put(canonical(told)))
    trained.unfit("1 of 32 smoke rows score otherwise", error=MlctError)


def test_a_store_that_does_not_answer_is_said_to(trained, monkeypatch):
    trained.train()

    def down(digest):
        raise OSError("no route to host")

    monkeypatch.setattr(trained.store, "get", down)
    trained.unfit("m@1 cannot be read: no route to host")


@pytest.mark.parametrize(
    ("name", "data", "problem", "error"),
    [
        ("model.skops", b"junk", "m@1 does not load: .*. Expected a model that", RollbackRefused),
        (fit.SERVING, b"{}", "the packaged model is None", TrainingError),
    ],
)
def test_bytes_that_do_not_load_are_unfit(trained, name, data, problem, error):
    broken = fit.keep(trained.store, trained.files | {name: data})
    trained.train(artifact=broken)
    trained.unfit(problem, broken, error)
