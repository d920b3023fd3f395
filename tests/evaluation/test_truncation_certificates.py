"""A truncated network from its checkpoint to a page of certificates, and back through `verify`."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm.certification import certify_truncated, worst_case_logits
from zeronorm.errors import ArgumentError
from zeronorm.records.folders import CertificateFolder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Trained for some seconds on what its windows allow."""
    data = zn.data.load("digits", "train")
    model = zn.models.build("mlp", image_size=8, widths=[40], truncation=5, mean=[0.3], std=[0.4])
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    torch.manual_seed(0)
    for step in range(120):
        rows = torch.randint(len(data), (128,))
        leads = worst_case_logits(model, data.x[rows], data.y[rows], min(2, step // 40))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(leads, data.y[rows]).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("model")
    zn.models.save(model.eval(), folder)
    return folder


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return zn.certify(zn.models.load(checkpoint), zn.data.load("digits", "test", 40), out=out).run


def test_its_rows_are_its_certificates(checkpoint, run):
    data, record = zn.data.load("digits", "test", 40), CertificateFolder(run).read()
    assert record["plan"]["method"] == {
        "name": "truncation_window", "kind": "deterministic", "unit": "pixel", "arithmetic": "deployed", "options": {},
    }  # fmt: skip
    expected = certify_truncated(zn.models.load(checkpoint), data.x)
    for i, row in enumerate(CertificateFolder(run).read_rows().to_pylist()):
        assert (row["prediction"], row["radius"]) == (expected.prediction[i], expected.radius[i])
        assert row["margin"] is None and row["counts"] is None
        # two passes of intervals for each budget tried, of which the last failed
        assert row["passes"] == 1 + 2 * min(int(expected.radius[i]) + 1, 5)
    assert zn.Certification(run).certified_accuracy[1] > 0.3
    assert "truncation window, deterministic" in (run / "report.html").read_text()


def test_verify_proves_again(checkpoint, run, tmp_path):
    data = zn.data.load("digits", "test", 40)
    assert zn.verify_certificates(run, zn.models.load(checkpoint), data)
    # the same weights, another k
    other = zn.defenses.truncate(zn.models.load(checkpoint), 4)
    assert any("model: digest" in p for p in zn.verify_certificates(run, other, data).problems)
    again = zn.certify(zn.models.load(checkpoint), data, out=tmp_path / "again", batch_size=7).run
    folder = CertificateFolder(again)
    rows = folder.read_rows().to_pylist()
    assert rows == CertificateFolder(run).read_rows().to_pylist()
    rows[0]["radius"] += 1
    record = folder.read()
    record["rows_digest"] = folder.fold(rows, [])
    folder.write(record)
    problems = zn.verify_certificates(again, zn.models.load(checkpoint), data).problems
    assert any("example 0: radius is" in problem for problem in problems), problems


def test_beside_a_search(checkpoint, run, tmp_path):
    model, data = zn.models.load(checkpoint), zn.data.load("digits", "test", 40)
    threat = zn.L0(2, low=-20.0, high=21.0)
    searched = zn.evaluate(model, data, threat, "sparse_rs", tmp_path / "s", queries=60)
    page = zn.report.render([run, searched.run], tmp_path / "both.html").read_text()
    assert "attacked by sparse_rs: an upper bound" in page and "A certificate is wrong" not in page
    assert searched.robust_accuracy[2] >= zn.Certification(run).certified_accuracy[2]


def test_a_truncated_model_that_was_not_trained_for_it(tmp_path):
    zn.models.save(zn.defenses.truncate(zn.models.load("digits"), 4), tmp_path / "model")
    model, data = zn.models.load(tmp_path / "model"), zn.data.load("digits", "test", 5)
    result = zn.certify(model, data, out=tmp_path / "run")
    assert result.certified_accuracy[0] > 0.5
    assert zn.verify_certificates(result.run, model, data)


def test_refusals(run, tmp_path):
    with pytest.raises(
        ArgumentError, match=r"which has votes to read again, got truncation_window, .* proof"
    ):
        zn.recertify(run, tmp_path / "no", alpha=0.001)
    data = zn.data.load("digits", "test", 5)
    with pytest.raises(ArgumentError, match=r"model: expected a truncated first layer .* got Conv2d"):
        zn.certify(zn.models.load("digits"), data, "truncation_window", tmp_path / "no")
    assert not (tmp_path / "no").exists()
