"""What a run notices about its own figure, each on a model made to show it, and silence on a healthy one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from small_runs import CLASSES, codes, dataset, images
from torch import nn

import zeronorm as zn
from zeronorm.attacks.sparse_autoattack import Stage
from zeronorm.evaluation import diagnosis
from zeronorm.models import BlackBox

pytestmark = pytest.mark.usefixtures("unchecked")

# long enough to have found what there is to find well before the end
LONG = {"steps": 80, "queries": 200}


class Through(nn.Module):
    """A model after and before a function."""

    def __init__(self, inner, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.inner, self.before, self.after = inner, before, after
        self.eval()

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


def evaluate(model, k=6, data=None, attack="sparse_autoattack", **options):
    data = dataset(model) if data is None else data
    return zn.evaluate(model, data, zn.L0(k), attack, **(options or LONG))


def test_nothing_to_say_about_a_healthy_model(model):
    assert codes(evaluate(model)) == []
    assert codes(zn.evaluate(model, dataset(model), zn.L0(5), curve=True, steps=100, queries=200)) == []
    assert codes(evaluate(model, attack="sparse_rs", queries=200)) == []


def test_what_was_looked_at_is_in_the_record(model):
    """Each check is either passed or a finding."""
    evaluation = evaluate(model, k=1, attack="sparse_rs", queries=9)
    assert codes(evaluation) == ["search-not-converged"]
    # one kind of search has nothing to be compared with, and so few passes leave none to ask again
    others = {"search-not-converged", "black-box-beats-white-box", "few-examples", "model-changed"}
    words = [text for code, text in diagnosis.CHECKS.items() if code not in others]
    assert evaluation.summary.run["checks"] == words


def test_every_finding_says_what_it_means_and_what_to_do(model):
    findings = evaluate(Through(model, lambda x: (x * 8).round() / 8), k=3).diagnosis
    assert findings
    for finding in [*findings, diagnosis.NO_GRADIENTS]:
        assert finding.keys() == {"code", "level", "seen", "meaning", "advice"}
        assert finding["level"] in ("warning", "note") and all(finding.values())


@pytest.mark.parametrize("noise", [0.05, 4.0])
def test_a_randomised_model(model, noise):
    noisy = Through(model, after=lambda z: z + noise * torch.randn_like(z))
    data = dataset(model)
    evaluation = zn.evaluate(noisy, data, zn.L0(1), steps=12, queries=16)
    assert codes(evaluation).count("randomised-model") == 1
    assert "batch-dependent-model" not in codes(evaluation)
    distances = [row["distance"] for row in evaluation.records.to_pylist() if row["outcome"] == "broken"]
    assert 0 not in distances, "an unchanged input is no adversarial"
    if noise > 1:
        assert "unconfirmed-adversarials" in codes(evaluation)


def test_noise_below_what_matters_is_not_worth_a_word(model):
    noisy = Through(model, after=lambda z: z + 1e-6 * torch.randn_like(z))
    assert "randomised-model" not in codes(evaluate(noisy, attack="sparse_rs", queries=20))


def test_a_batch_dependent_model(model):
    dependent = Through(model, after=lambda z: z - 0.1 * z.mean(0))
    assert "batch-dependent-model" in codes(evaluate(dependent, k=1, attack="sparse_rs", queries=9))


def test_a_model_whose_answers_depend_on_the_place_in_the_batch(model):
    """The same noise in every pass: alone, the first example is answered as in the batch, any other is not."""

    def noisy(z):
        return z + 4 * torch.rand(z.shape, generator=torch.Generator().manual_seed(0))

    found = codes(evaluate(Through(model, after=noisy), k=1, attack="sparse_rs", queries=9))
    assert "batch-dependent-model" in found and "randomised-model" not in found


class Tiring(nn.Module):
    """A model that answers otherwise once it has been asked so often."""

    def __init__(self, inner, after):
        super().__init__()
        self.inner, self.left = inner, after
        self.eval()

    def forward(self, x):
        self.left -= len(x)
        return self.inner(x) if self.left > 0 else -self.inner(x)


def test_a_model_that_changes_while_it_is_searched(model):
    found = evaluate(Tiring(model, 1000), k=1, attack="sparse_rs", queries=800, data=dataset(model))
    assert "model-changed" in codes(found)
    told = next(f for f in found.diagnosis if f["code"] == "model-changed")
    assert told["seen"] == "2 of 2 clean inputs were answered otherwise after the search than before it"
    assert not zn.verify(found.run, model, dataset(model))
    lasting = evaluate(Tiring(model, 10**6), k=1, attack="sparse_rs", queries=800)
    assert "model-changed" not in codes(lasting)
    assert diagnosis.CHECKS["model-changed"] in lasting.summary.run["checks"]


def test_an_attack_that_changes_the_model(model):
    mine = copy.deepcopy(model)

    def spoiling(model, x, y, threat):
        for _ in range(400):
            model(x)
        with torch.no_grad():
            for parameter in mine.parameters():
                parameter.neg_()
        return x

    assert "model-changed" in codes(zn.evaluate(mine, dataset(model), zn.L0(1), spoiling))


@pytest.mark.parametrize("attack", ["sparse_pgd", "sparse_rs"])
def test_asking_again_costs_at_most_one_in_two_hundred_passes(model, attack):
    before = []

    class Watched(nn.Module):
        def forward(self, x):
            before.append(len(x))
            return model(x)

    lengths = {"queries": 800} if attack == "sparse_rs" else {"steps": 800}
    found = evaluate(Watched().eval(), k=1, attack=attack, data=dataset(model), **lengths)
    again = found.summary.run["sessions"][0]["asked_again"]
    assert 0 < again <= 0.005 * sum(before)
    few = evaluate(model, attack="sparse_rs", queries=2)
    assert few.summary.run["sessions"][0]["asked_again"] == 0
    assert diagnosis.CHECKS["model-changed"] not in few.summary.run["checks"]


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e15, 1e30])
def test_logits_whose_gradients_leave_the_range_of_their_type(model, scale):
    scaled = Through(model, after=lambda z: z * scale)
    found = evaluate(scaled, attack="sparse_pgd", steps=20, data=dataset(model))
    assert "badly-scaled-logits" in codes(found)
    assert all(f["level"] == "warning" for f in found.diagnosis if f["code"] == "badly-scaled-logits")
    assert "badly-scaled-logits" not in codes(evaluate(model, attack="sparse_pgd", steps=20))


def test_gradients_that_are_zero(model):
    """Rounding kills the gradient, and the black-box search wins."""
    evaluation = evaluate(Through(model, lambda x: (x * 4).round() / 4), k=2, steps=20, queries=300)
    assert {"zero-gradient", "black-box-beats-white-box"} <= set(codes(evaluation))
    finding = next(f for f in evaluation.diagnosis if f["code"] == "zero-gradient")
    assert "100% of 20 inputs" in finding["seen"]


def test_gradients_that_are_undefined(model):
    """What `where` leaves out counts in the gradient."""
    hidden = Through(model, after=lambda z: torch.where(z > 1e9, z * float("nan"), z))
    evaluation = evaluate(hidden, k=2, steps=20, queries=30)
    finding = next(f for f in evaluation.diagnosis if f["code"] == "undefined-gradient")
    assert "100% of 20 inputs" in finding["seen"] and finding["level"] == "warning"
    assert diagnosis.CHECKS["undefined-gradient"] not in evaluation.summary.run["checks"]


@pytest.mark.parametrize("answer", [float("nan"), float("inf")])
@pytest.mark.parametrize("attack", ["sparse_pgd", "sparse_rs", "sigma_zero"])
def test_answers_that_are_no_numbers(model, answer, attack):
    """Finite on every clean input, and not where pixels are white, of which the search tries some."""
    data = dataset(model)
    assert (data.x < 1).all()
    length = {"queries": 60} if attack == "sparse_rs" else {"steps": 30}

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model
            self.eval()

        def forward(self, x):
            far = (x >= 1).flatten(1).sum(1, keepdim=True) > 1
            return self.inner(x).masked_fill(far, answer)

    assert "undefined-logits" in codes(evaluate(Breaks(), data=data, attack=attack, k=6, **length))
    ruled_out = Through(model, after=lambda z: z.masked_fill(torch.arange(z.shape[1]) == 3, -float("inf")))
    fine = evaluate(ruled_out, data=dataset(ruled_out), attack=attack, k=6, **length)
    assert "undefined-logits" not in codes(fine)


def test_gradients_that_are_cut_off(model):
    """A comparison leaves no gradient at all, though the weights would have one."""
    cut = Through(model, lambda x: (x > 0.5).float())
    assert cut(images(2).requires_grad_()).requires_grad
    evaluation = evaluate(cut, data=dataset(cut), steps=20, queries=300)
    assert "no-gradients" in codes(evaluation) and "zero-gradient" not in codes(evaluation)
    assert [stage.name for stage in evaluation.summary.stages] == ["sparse_rs"]
    with pytest.raises(zn.ArgumentError, match="sparse_pgd needs gradients, and this model gives none"):
        evaluate(cut, attack="sparse_pgd", steps=3)


def test_a_black_box_was_never_meant_to_have_gradients(model):
    box = BlackBox(lambda x: model(torch.from_numpy(x)).detach().numpy())
    evaluation = evaluate(box, data=dataset(model), queries=300, steps=20)
    assert codes(evaluation) == []
    assert [stage.name for stage in evaluation.summary.stages] == ["sparse_rs"]


def test_masked_gradients(model):
    """Gradients that are there and lead nowhere."""

    class Misled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return -gradient

    evaluation = evaluate(Through(model, Misled.apply), k=1, steps=20, queries=300)
    assert "black-box-beats-white-box" in codes(evaluation)
    assert "zero-gradient" not in codes(evaluation)


def test_an_attack_of_ones_own_is_not_called_a_black_box(model):
    def mine(model, x, y, threat):
        return zn.attacks.sparse_pgd(model, x, y, threat, steps=100)

    weak = Stage("sparse_pgd", {"steps": 0})
    evaluation = zn.evaluate(model, dataset(model), zn.L0(3), [weak, mine])
    assert "black-box-beats-white-box" not in codes(evaluation)


def test_saturated_logits(model):
    saturated = Through(model, after=lambda z: 1000 * z)
    evaluation = evaluate(saturated)
    assert codes(evaluation) == ["saturated-logits"]
    assert evaluation.diagnosis[0]["level"] == "note"
    assert evaluation.robust_accuracy == evaluate(model).robust_accuracy, "our attacks do not mind"


@pytest.mark.parametrize(
    "classes, share, near", [(4, 0.3, True), (4, 0.5, False), (2, 0.5, True), (2, 0.7, False)]
)
def test_clean_accuracy_near_chance(classes, share, near):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(25, classes)).eval()
    x = images(200)
    with torch.no_grad():
        y = linear(x).argmax(1)
    y[int(share * 200) :] = (y[int(share * 200) :] + 1) % classes
    found = codes(zn.evaluate(linear, (x, y), zn.L0(0), "sparse_rs", queries=1))
    assert found == (["clean-accuracy-near-chance"] if near else [])


def test_one_class_alone_is_not_near_chance(model):
    data = dataset(model)
    label = int(data.y[0])
    mine = (data.y == label) & (model(data.x).argmax(1) == label)
    flat = Through(nn.Sequential(nn.Flatten(), nn.Linear(25, CLASSES)))
    flat.inner[1].bias.data[0] = 100.0
    assert "clean-accuracy-near-chance" not in codes(
        zn.evaluate(flat, (data.x[mine], torch.zeros(int(mine.sum()), dtype=torch.int64)), zn.L0(0))
    )


def test_a_search_that_had_not_converged(model):
    for attack, short in (("sparse_pgd", {"steps": 4}), ("sparse_rs", {"queries": 12})):
        evaluation = evaluate(model, k=2, attack=attack, **short)
        assert codes(evaluation) == ["search-not-converged"]
        assert attack in evaluation.diagnosis[0]["seen"]
    assert "search-not-converged" in codes(evaluate(model, k=2, steps=4, queries=5))


def test_where_proofs_settle_everyone_a_short_search_is_no_warning():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(40, 6))
    y = (x.sum(1) > 3).astype(int)
    forest = zn.models.from_sklearn(RandomForestClassifier(12, random_state=0).fit(x, y))
    data, threats = (torch.tensor(x), torch.tensor(y)), [zn.L0(k, unit="feature") for k in (1, 2)]
    searched = zn.evaluate(forest, data, threats, "sparse_rs", queries=30)
    (found,) = (f for f in searched.diagnosis if f["code"] == "search-not-converged")
    assert found["level"] == "warning" and "over-estimate" in found["meaning"]
    proved = zn.evaluate(forest, data, threats, "sparse_rs", queries=30, prove=True)
    (found,) = (f for f in proved.diagnosis if f["code"] == "search-not-converged")
    assert found["level"] == "note" and "the figures are exact" in found["meaning"]


def test_making_it_sparser_is_no_search(model):
    """The passes of a curve that put pixels back are counted, but say nothing about when the search ended."""
    evaluation = zn.evaluate(model, dataset(model), zn.L0(24), "sparse_pgd", curve=True, steps=80)
    late = [r for r in evaluation.records.to_pylist() if r["outcome"] == "broken" and r["forwards"] > 40]
    assert late and codes(evaluation) == []


def test_restarts_are_part_of_the_search(model):
    stage = Stage("sparse_rs", {"queries": 20, "restarts": 20})
    assert codes(zn.evaluate(model, dataset(model), zn.L0(3), stage)) == []


def test_probabilities_are_refused(model):
    probabilities = Through(model, after=lambda z: z.softmax(1))
    with pytest.raises(zn.ArgumentError, match="model: expected logits, got probabilities"):
        evaluate(probabilities, data=dataset(model))
    assert codes(evaluate(Through(model, after=lambda z: z.log_softmax(1)))) == []


def test_only_what_was_looked_at_is_called_checked(model):
    """A black box has no gradients to be checked, and a single kind of search nothing to be compared with."""
    data = dataset(model)

    def scores(x):
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    gradients = {"the model gives gradients", "input gradients are not zero"}
    compared = {diagnosis.CHECKS["black-box-beats-white-box"]}
    said = {
        "white": zn.evaluate(model, data, zn.L0(2), "sparse_pgd", steps=5),
        "both": zn.evaluate(model, data, zn.L0(2), steps=5, queries=5),
        "black": zn.evaluate(BlackBox(scores), data, zn.L0(2), queries=5),
    }
    checks = {name: set(one.summary.run["checks"]) | set(codes(one)) for name, one in said.items()}
    assert gradients <= checks["white"] and not compared & checks["white"]
    assert gradients <= checks["both"]
    assert compared <= checks["both"] or "black-box-beats-white-box" in checks["both"]
    assert not (gradients | compared) & checks["black"]


def test_printed_with_its_findings(model):
    evaluation = evaluate(model, steps=2, queries=4)
    assert "search-not-converged" in codes(evaluation)
    assert str(evaluation).startswith(evaluation.table()) and "\n\nwarning: " in str(evaluation)
