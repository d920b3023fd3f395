"""A matrix: every model against every attack and certificate, resumed, verified, and what it says of each."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import CLASSES, SHORT, dataset, network

import zeronorm as zn
from zeronorm import ArgumentError, models, records, report
from zeronorm.attacks import Stage
from zeronorm.data import Dataset
from zeronorm.defenses import RandomizedAblation
from zeronorm.records import matrix_figures
from zeronorm.records.folders import MatrixFolder

ATTACKS = ("sparse_pgd", "sparse_rs")
BUDGETS = [zn.L0(1), zn.L0(2)]


class Voter(torch.nn.Module):
    """A base classifier of ablated images: its first channels, without a bias for what is hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(channels=2, seed=3)
        self.facts = {"ablation": {"retained": 12, "null": "multichannel", "mean": None, "std": None}}
        self.eval()

    def forward(self, x):
        return self.inner(x)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models, data and the folder of a complete matrix."""
    plain = network()
    data = dataset(plain, 12)
    truncated = models.build(
        "mlp", in_channels=1, image_size=5, classes=CLASSES, widths=[16], truncation=2
    ).eval()
    voter = Voter()
    lipschitz = models.build("l0_lipschitz", in_channels=1, image_size=5, classes=CLASSES, patches=1).eval()
    named = {"plain": plain, "truncated": truncated, "voter": voter, "lipschitz": lipschitz}
    folder = tmp_path_factory.mktemp("matrix") / "m"
    return named, data, folder, zn.matrix(named, data, BUDGETS, ATTACKS, folder, votes=20, n=40, **SHORT)


def test_each_model_meets_each_attack_it_can(made):
    named, _, folder, matrix = made
    figures = matrix.as_json()
    assert figures["complete"] and figures["n"] == 12 and list(figures["models"]) == list(named)
    for name, of_model in figures["models"].items():
        white = of_model["attacks"]["sparse_pgd"]
        assert (white is None) == (name in ("voter", "lipschitz"))  # without gradients
        attacked = [a for a in of_model["attacks"].values() if a is not None]
        for k in ("1", "2"):
            assert of_model["robust_accuracy"][k] <= min(a[k] for a in attacked)
            assert of_model["robust_accuracy"][k] <= of_model["clean_accuracy"]
    assert "gradients" in MatrixFolder(folder).read()["models"][2]["unfit"]["sparse_pgd"]
    assert {name for name, m in figures["models"].items() if m["certified_accuracy"]} == {
        "truncated",
        "voter",
        "lipschitz",
    }
    assert figures["models"]["voter"]["passes"] == 20 and figures["models"]["plain"]["passes"] == 1


def test_lower_bounds_lie_below_upper_ones(made):
    matrix = made[-1]
    assert matrix_figures.contradicted(matrix.figures) == []
    for name, of_model in matrix.as_json()["models"].items():
        if name in ("truncated", "lipschitz"):
            for k, proved in of_model["certified_accuracy"].items():
                assert proved <= of_model["robust_accuracy"][k]


def test_of_votes_more_can_be_proved_than_is_left(made):
    note = "voter: attacked with 20 votes an answer, abstaining counts as broken; proved with 40, each image with "
    assert note in made[-1].table()
    page = (made[2] / "report.html").read_text()
    assert "Voter: attacked with 20 votes" in page


def test_the_smoothed_classifier_is_what_is_attacked(made):
    """Its answers are votes: those of the records are those of `RandomizedAblation`."""
    named, data, folder, _ = made
    smoothed = RandomizedAblation(named["voter"], 12, votes=20).eval()
    answers = smoothed(data.x).argmax(1).tolist()
    run = zn.Evaluation(folder / "voter/attacks/voter/sparse_rs")
    clean = {row["example"]: row["prediction"] for row in run.records.to_pylist() if row["stage"] < 0}
    assert [clean[i] for i in data.ids.tolist()] == answers


def test_resumed_it_does_nothing_twice(made):
    named, data, folder, matrix = made
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}
    again = zn.matrix(named, data, BUDGETS, ATTACKS, folder, votes=20, n=40, **SHORT)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")} == before
    assert again.as_json() == matrix.as_json()


def test_stopped_and_resumed_it_is_the_same(made, tmp_path):
    named, data, _, matrix = made
    calls = 0

    def stop(title, state):
        nonlocal calls
        calls += 1
        if title.startswith("2/4"):
            raise KeyboardInterrupt

    options = {"votes": 20, "n": 40, **SHORT}
    with pytest.raises(KeyboardInterrupt):
        zn.matrix(named, data, BUDGETS, ATTACKS, tmp_path / "m", **options, on_progress=stop)
    assert calls
    unfinished = records.read_matrix(MatrixFolder(tmp_path / "m"))
    assert not unfinished.complete and len(unfinished.defences) < 4
    assert "unfinished" in report.render(tmp_path / "m", tmp_path / "page.html").read_text()
    with pytest.raises(ArgumentError, match="stopped early"):
        zn.verify_matrix(tmp_path / "m", named, data)
    again = zn.matrix(named, data, BUDGETS, ATTACKS, tmp_path / "m", **options)

    def figures(of):
        return {
            name: {key: value for key, value in of_model.items() if key != "milliseconds"}
            for name, of_model in of.as_json()["models"].items()
        }

    assert figures(again) == figures(matrix)


def test_verified(made):
    named, data, folder, _ = made
    result = zn.verify_matrix(folder, named, data)
    assert result.ok and result.adversarials and not result.problems
    others = {**named, "plain": network(seed=9)}
    result = zn.verify_matrix(folder, others, data)
    assert not result.ok and all(problem.startswith("plain: ") for problem in result.problems)
    with pytest.raises(ArgumentError, match="none called lipschitz"):
        zn.verify_matrix(folder, {k: v for k, v in named.items() if k != "lipschitz"}, data)


def test_a_model_may_join(made, tmp_path):
    named, data, _, _ = made
    two = {name: named[name] for name in ("plain", "truncated")}
    zn.matrix(two, data, BUDGETS, ATTACKS, tmp_path / "m", votes=20, n=40, **SHORT)
    cost = MatrixFolder(tmp_path / "m").read()["models"][0]["cost"]
    more = zn.matrix(named, data, BUDGETS, ATTACKS, tmp_path / "m", votes=20, n=40, **SHORT)
    assert len(more.figures.defences) == 4
    assert MatrixFolder(tmp_path / "m").read()["models"][0]["cost"] == cost


def test_bad_input(made, tmp_path, unchecked):
    named, data, folder, _ = made
    with pytest.raises(ArgumentError, match=r"model: expected at least two"):
        zn.matrix({"plain": named["plain"]}, data, BUDGETS, ATTACKS, tmp_path / "m")
    with pytest.raises(ArgumentError, match=r"attack: .*voter.*gradients"):
        zn.matrix(named, data, BUDGETS, "sparse_pgd", tmp_path / "m")
    with pytest.raises(ArgumentError, match=r"steps"):
        zn.matrix(named, data, BUDGETS, ATTACKS, tmp_path / "m", steps=-1)
    with pytest.raises(ArgumentError, match=r"attack: no model can be attacked by odd: .*step_size"):
        odd = {"odd": Stage("sparse_pgd", {"step_size": -1.0}), "sparse_rs": "sparse_rs"}
        zn.matrix(named, data, BUDGETS, odd, tmp_path / "m")
    with pytest.raises(ArgumentError, match=r"out: .*another matrix \(k\[0\]|k is"):
        zn.matrix(named, data, [zn.L0(3)], ATTACKS, folder, votes=20, n=40, **SHORT)
    with pytest.raises(ArgumentError, match=r"votes"):
        zn.matrix(named, data, BUDGETS, ATTACKS, tmp_path / "m", votes=0)
    with pytest.raises(ArgumentError, match=r"threat: expected L0, .*compare"):
        zn.matrix(named, data, zn.Linf(0.1), ["pgd"], tmp_path / "m")  # as without checks of types
    with pytest.raises(ArgumentError, match=r"^broken: model: expected finite logits, got NaN"):
        broken = lambda x: torch.full((len(x), CLASSES), torch.nan)  # noqa: E731
        zn.matrix({"plain": named["plain"], "broken": broken}, data, BUDGETS, "sparse_rs", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_what_it_says_of_each(tmp_path):
    """By hand: of eight examples one model keeps all, one none, one those that the first keeps."""
    x = torch.linspace(0, 1, 8)[:, None, None, None].expand(8, 1, 2, 2).contiguous()
    y = torch.zeros(8, dtype=torch.int64)

    class Always(torch.nn.Module):
        """Right whatever changes, or right until the mean moves by `slack`."""

        def __init__(self, slack):
            super().__init__()
            self.slack = slack
            self.eval()

        def forward(self, x):
            score = x.flatten(1).std(1, keepdim=True) - self.slack
            return torch.cat([-score, score], 1)

    named = {"plain": Always(0.05), "same": Always(0.0501), "safe": Always(9.0)}
    data = Dataset(x, y, torch.arange(8), "even", "test", ("a", "b"))
    found = zn.matrix(named, data, zn.L0(1), ATTACKS, tmp_path / "m", **SHORT)
    left = {name: of["robust_accuracy"]["1"] for name, of in found.as_json()["models"].items()}
    assert left == {"plain": 0, "same": 0, "safe": 1}
    said = {verdict.name: verdict for verdict in matrix_figures.verdicts(found.figures)}
    assert said["same"].word == "falls" and "not told apart from plain" in said["same"].text
    assert said["safe"].word == "resists" and "+100.0 points" in said["safe"].text
    assert said["safe"].holds and not said["same"].holds
    page = report.render(tmp_path / "m", tmp_path / "elsewhere/page.html").read_text()
    assert "safe resists." in page and 'href="../m/safe/attacks/report.html"' in page
    assert json.loads((tmp_path / "m/matrix.json").read_text())["status"] == "complete"


def test_more_proved_than_left_is_what_counts(made):
    """A smoothed classifier of few votes abstains; what more votes prove of it is still true."""
    figures = made[-1].figures
    (voter,) = [one for one in figures.defences if one.name == "voter"]
    k = figures.judged_k
    most = max(figures.first.budgets)
    sure = replace(voter.proved, radii=np.full(len(voter.proved.radii), float(most)))
    changed = [replace(one, proved=sure) if one is voter else one for one in figures.defences]
    verdict = matrix_figures.verdicts(replace(figures, defences=changed))[1]
    assert verdict.name == "voter" and verdict.word.startswith("resists") and verdict.holds
    assert f"100.0 % proved at k = {k}, " in verdict.text
    assert "proved for" not in verdict.text


def test_gradients_withheld_gain_nothing(tmp_path):
    """The same network, of which only predictions can be had, is no defence."""
    plain = network()
    named = {"plain": plain, "box": models.BlackBox(lambda x: plain(torch.from_numpy(x)).numpy())}
    attacks = ("sparse_pgd", "sparse_rs")
    found = zn.matrix(named, dataset(plain, 20), BUDGETS, attacks, tmp_path / "m", steps=60, queries=5)
    left = {name: of["robust_accuracy"] for name, of in found.as_json()["models"].items()}
    assert left["box"]["2"] > left["plain"]["2"], "or the test shows nothing"
    (verdict,) = matrix_figures.verdicts(found.figures)
    assert verdict.word == "falls" and not verdict.holds
    assert "not told apart from plain under the 1 attack of 2 that see both (+0.0 points" in verdict.text


class Undefined(torch.nn.Module):
    """Another's logits, with a gradient that is NaN: what `where` leaves out counts there."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.eval()

    def forward(self, x):
        z = self.inner(x)
        return torch.where(z.sum(1, keepdim=True) > 1e9, z * float("nan"), z)


def test_undefined_gradients_gain_nothing(tmp_path):
    plain = network()
    named = {"plain": plain, "undefined": Undefined(plain)}
    found = zn.matrix(named, dataset(plain, 20), BUDGETS, ATTACKS, tmp_path / "m", steps=60, queries=5)
    (verdict,) = matrix_figures.verdicts(found.figures)
    assert verdict.word == "falls" and "under the 1 attack of 2 that see both" in verdict.text
    assert "undefined gradient (2 of 4 runs)" in found.table()
    page = report.render(tmp_path / "m", tmp_path / "page.html").read_text()
    assert "look for a division, a root or a logarithm at 0" in page
    found = zn.matrix(named, dataset(plain, 20), BUDGETS, ["sparse_pgd"], tmp_path / "white", steps=60)
    (verdict,) = matrix_figures.verdicts(found.figures)
    assert verdict.word == "cannot be judged" and not verdict.holds


def test_misleading_gradients_are_told(tmp_path):
    """A model whose gradient is zero: what asks for it leaves more than what does not."""

    class Masked(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.eval()

        def forward(self, x):
            return self.inner(x.detach()) + 0 * x.sum()

    plain = network()
    named = {"plain": plain, "masked": Masked(plain)}
    found = zn.matrix(named, dataset(plain, 20), BUDGETS, ATTACKS, tmp_path / "m", steps=3, queries=300)
    (verdict,) = matrix_figures.verdicts(found.figures)
    at = found.as_json()["judged_k"]
    left = {
        attack: shares[str(at)] for attack, shares in found.as_json()["models"]["masked"]["attacks"].items()
    }
    assert left["sparse_pgd"] > left["sparse_rs"] + 0.1
    assert "its gradients mislead: with them" in verdict.text and "sparse_rs breaks most" in verdict.text
