"""Runs of certificates: rows, resuming, other confidence levels from the same votes, verification, the page."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import zeronorm as zn
from zeronorm.certification import ABSTAIN, ablation_radius
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.records.folders import CERTIFICATES, CertificateFolder, digest_rows

VOTES = {"retained": 6, "n0": 40, "n": 200}


class Brightness(nn.Module):
    """Class by how bright the shown pixels are; reads the multichannel encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.eval()

    def forward(self, x):
        bright = self.scale * (x[:, :1] - x[:, 1:]).sum((1, 2, 3))
        return torch.stack([-bright, bright, -bright.abs() / 2], dim=1)


def dataset(n: int = 9) -> Dataset:
    """Images of all degrees of brightness; every fourth label wrong."""
    level = torch.linspace(0.05, 0.95, n)
    x = (
        level[:, None, None, None]
        + 0.05 * torch.randn(n, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    ).clamp(0, 1)
    y = (level > 0.5).long()
    y[3::4] = 2
    return Dataset(x, y, 7 * torch.arange(n) + 2, "levels", "test", tuple("abc"))


@pytest.fixture
def run(tmp_path):
    return zn.certify(Brightness(), dataset(), out=tmp_path / "run", **VOTES).run


def rows(run) -> list[dict]:
    return CertificateFolder(run).read_rows().to_pylist()


def test_rows_are_votes_and_what_they_prove(run):
    data, found = dataset(), rows(run)
    assert [row["example"] for row in found] == data.ids.tolist()
    smoothed = zn.defenses.RandomizedAblation(Brightness(), 6)
    certificate = smoothed.certify(data.x, 40, 200, ids=data.ids)
    for i, row in enumerate(found):
        assert row["counts"] == certificate.counts[i].tolist()
        assert row["selection"] == certificate.selection[i].tolist()
        assert sum(row["counts"]) == 200 and row["passes"] == 240
        assert (ABSTAIN if row["radius"] is None else row["radius"]) == certificate.radius[i]
        assert (ABSTAIN if row["prediction"] is None else row["prediction"]) == certificate.prediction[i]
    result = zn.Certification(run)
    for k in range(4):
        assert result.certified_accuracy[k] == float(certificate.holds(data.y, k).double().mean())
    assert "median radius" in str(result)


def test_figures(run):
    summary = zn.Certification(run).summary
    radii = [
        r["radius"] if r["prediction"] == r["label"] and r["radius"] is not None else -math.inf
        for r in rows(run)
    ]
    assert summary.median == sorted(radii)[(len(radii) - 1) // 2]
    assert summary.shares[0].count == sum(r >= 0 for r in radii) and summary.shares[-1].count == 0
    assert sum(c.clean.n for c in summary.classes) == summary.n == 9
    assert summary.clean_accuracy.count == sum(r["answer"] == r["label"] for r in rows(run))


def test_batch_size_does_not_matter(run, tmp_path):
    other = zn.certify(Brightness(), dataset(), out=tmp_path / "other", batch_size=32, **VOTES).run
    assert rows(run) == rows(other)


def test_a_killed_run_goes_on(run, tmp_path):
    part = tmp_path / "part"

    class Stop(Exception):
        pass

    def stop(state):
        if state.done >= 4:
            raise Stop

    with pytest.raises(Stop):
        zn.certify(Brightness(), dataset(), out=part, batch_size=32, **VOTES, on_progress=stop)
    folder = CertificateFolder(part)
    assert not folder.table.exists() and 4 <= folder.read_rows().num_rows < 9
    with open(folder.journal, "ab") as file:
        file.write(b'{"example": 5')  # cut off
    assert not zn.Certification(part).summary.complete
    zn.certify(Brightness(), dataset(), out=part, batch_size=32, **VOTES)
    assert rows(part) == rows(run)
    again = zn.certify(Brightness(), dataset(), out=part, **VOTES)  # complete: nothing is done again
    assert rows(again.run) == rows(run) and len(folder.read()["sessions"]) == 2


def test_another_plan_is_refused(run):
    with pytest.raises(ArgumentError, match="holds another run"):
        zn.certify(Brightness(), dataset(), out=run, **(VOTES | {"n": 300}))


def test_other_levels_from_the_same_votes(run, tmp_path):
    strict = zn.recertify(run, tmp_path / "strict", alpha=0.001)
    asked = zn.certify(Brightness(), dataset(), out=tmp_path / "asked", alpha=0.001, **VOTES)
    assert rows(strict.run) == rows(asked.run)
    for row in rows(strict.run):
        own = row["counts"][int(np.argmax(row["selection"]))]
        assert (ABSTAIN if row["radius"] is None else row["radius"]) == ablation_radius(
            own, 200, 25, 6, 0.001
        )
    assert zn.verify_certificates(strict.run, Brightness(), dataset())
    tight = zn.recertify(run, tmp_path / "tight", bound="all_votes")
    assert tight.summary.run["counts_of"]["rows_digest"] == CertificateFolder(run).read()["rows_digest"]
    with pytest.raises(ArgumentError, match="alpha: expected a number between 0 and 1"):
        zn.recertify(run, tmp_path / "no", alpha=2.0)


def tamper(run, change) -> None:
    folder = CertificateFolder(run)
    found = folder.read_rows().to_pylist()
    change(found)
    record = folder.read()
    record["rows_digest"] = folder.fold(found, [])
    folder.write(record)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[0].update(radius=3), "its votes give radius"),
        (lambda rows: rows[0].update(prediction=2), "its votes give prediction"),
        (lambda rows: rows[8].update(answer=None), "its votes give answer"),
        (lambda rows: rows[0]["counts"].__setitem__(0, 150), "its counts are not 200 votes"),
        (lambda rows: rows[0].update(counts=[0, 0, 200], radius=2, prediction=None), "its votes give"),
        (lambda rows: rows.pop(), "rows: their examples"),
        (lambda rows: rows[0].update(label=1), "label or name is not the data's"),
    ],
)  # fmt: skip
def test_verify_notices(run, change, says):
    assert zn.verify_certificates(run, Brightness(), dataset())
    tamper(run, change)
    result = zn.verify_certificates(run, Brightness(), dataset())
    assert any(says in problem for problem in result.problems), result.problems


def test_verify_casts_votes_again(run):
    def forge(found):
        found[0].update(selection=[0, 40, 0], counts=[0, 200, 0])
        options = CertificateFolder(run).read()["plan"]["method"]["options"]
        from zeronorm.evaluation.certify import _judged

        found[0].update(_judged(found[:1], options, [1, 5, 5])[0])

    tamper(run, forge)
    problems = zn.verify_certificates(run, Brightness(), dataset()).problems
    assert any("are others when cast again" in problem for problem in problems)


def test_verify_another_model(run):
    other = Brightness()
    other.scale.data.mul_(2)
    assert any("model: digest" in p for p in zn.verify_certificates(run, other, dataset()).problems)


def test_votes_that_ended_early_are_verified_and_reported(tmp_path):
    early = zn.certify(Brightness(), dataset(), out=tmp_path / "early", **VOTES | {"n": 1000}, looks=3)
    spent = [sum(row["counts"]) for row in rows(early.run)]
    assert set(spent) <= {256, 512, 1000} and min(spent) < 1000
    assert [row["passes"] for row in rows(early.run)] == [40 + n for n in spent]
    assert zn.verify_certificates(early.run, Brightness(), dataset())
    assert f"40 + up to 1,000 votes ({np.mean(spent):,.0f} on average" in str(early)
    other = zn.recertify(early.run, tmp_path / "other", alpha=0.2)
    assert all(a >= b for a, b in zip(other.summary.radii, early.summary.radii, strict=True))
    assert zn.verify_certificates(other.run, Brightness(), dataset())


def test_votes_in_bfloat16_say_so(tmp_path):
    fast = zn.certify(Brightness(), dataset(), out=tmp_path / "fast", **VOTES, precision="bfloat16")
    assert "votes in bfloat16" in str(fast) and zn.verify_certificates(fast.run, Brightness(), dataset())


def test_the_page(run, tmp_path):
    page = (run / "report.html").read_text()
    assert "Proved right" in page and "Least certified" in page and "randomized ablation, 6 pixels" in page
    assert page == zn.report.render(run, tmp_path / "again.html").read_text()
    named = zn.data.load("digits", "test", 6)
    searched, elsewhere = (
        zn.evaluate(zn.models.load("digits"), data, zn.L0(2), "sparse_rs", tmp_path / name, queries=5)
        for name, data in (
            ("s", dataclasses.replace(named, name=dataset().name, split=dataset().split)),
            ("e", named),
        )
    )
    with pytest.raises(ArgumentError, match=r"expected searches on the data of the certificates, got digits"):
        zn.report.render([run, elsewhere.run], tmp_path / "both.html")
    both = zn.report.render([run, searched.run], tmp_path / "both.html").read_text()
    assert "attacked by sparse_rs: an upper bound" in both and "A certificate is wrong" not in both


def test_the_records_are_as_documented(run):
    assert pq.read_schema(run / "rows.parquet").names == CERTIFICATES.names
    record = json.loads((run / "run.json").read_text())
    assert record["format"] == "zeronorm-certificates/1"
    assert record["rows_digest"] == digest_rows(CertificateFolder(run).read_rows())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"retained": None}, "retained: expected how many pixels"),
        ({"retained": 26}, "retained: expected an integer between 1 and 25, got 26"),
        ({"alpha": 0.0}, "alpha: expected a number between 0 and 1"),
        ({"bound": "third"}, "bound: expected one of half, all_votes"),
        ({"method": "magic"}, "method: expected one of randomized_ablation"),
        ({"n": 0}, "n: expected an integer of at least 1"),
        ({"null": "grey"}, "null: expected one of multichannel, mean"),
        ({"null": "mean"}, "mean: expected the colour"),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1"),
    ],
)
def test_refusals_leave_no_folder(tmp_path, changes, says):
    with pytest.raises(ArgumentError, match=says):
        zn.certify(Brightness(), dataset(), out=tmp_path / "no", **(VOTES | changes))
    assert not (tmp_path / "no").exists()


def test_a_label_that_the_model_does_not_know(tmp_path):
    x = dataset().x
    with pytest.raises(ArgumentError, match="model: expected a logit for every label up to 3, got 3 classes"):
        zn.certify(Brightness(), (x, torch.full((len(x),), 3)), out=tmp_path / "no", **VOTES)


def test_a_search_is_not_a_run_of_certificates(run, tmp_path):
    with pytest.raises(ArgumentError, match="expected format zeronorm-run/1"):
        zn.Evaluation(run)
