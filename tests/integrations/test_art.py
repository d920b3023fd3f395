"""ART itself: its classifiers with our attacks, its attacks in our runner."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

import zeronorm as zn
from zeronorm.errors import ArgumentError

pytest.importorskip("art.attacks.evasion")

from art.attacks.evasion import FastGradientMethod, SaliencyMapMethod, SquareAttack
from art.estimators.classification import PyTorchClassifier, SklearnClassifier

from zeronorm.integrations.art import ArtAttack, from_art


def classifier_of(model, **options):
    return PyTorchClassifier(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        nb_classes=10,
        device_type="cpu",
        **{"clip_values": (0.0, 1.0), "input_shape": (1, 8, 8)} | options,
    )


def test_our_attack_is_arts(model, x, y):
    attack = ArtAttack(classifier_of(model), "sparse_pgd", budget=4, steps=20, batch_size=5)
    found = attack.generate(x.numpy(), y.numpy())
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    direct = zn.attacks.sparse_pgd(model, x, y, zn.L0(4), steps=20)
    assert np.array_equal(found, direct.numpy())
    one_hot = np.eye(10)[y.numpy()]
    assert np.array_equal(attack.generate(x=x.numpy(), y=one_hot), found)
    assert "attack=sparse_pgd, budget=4" in repr(attack)


def test_doubles_come_back_as_doubles(model, x, y):
    """What did not change is what was given to the last bit, though the classifier sees floats."""
    given = x.double().numpy() + 1e-9 * (x.numpy() < 0.5)
    found = ArtAttack(classifier_of(model), "sparse_pgd", budget=4, steps=20).generate(given, y.numpy())
    assert found.dtype == np.float64 and (found != given).any()
    assert ((found != given).any(axis=1).sum(axis=(1, 2)) <= 4).all()


def test_without_labels_the_predictions_are_left(model, x):
    found = ArtAttack(classifier_of(model), "sparse_rs", budget=6, queries=40).generate(x.numpy())
    with torch.no_grad():
        y = model(x).argmax(1)
    assert np.array_equal(found, zn.attacks.sparse_rs(model, x, y, zn.L0(6), queries=40).numpy())


def test_preprocessing_counts(x, y):
    """A classifier that normalises is attacked with its normalisation, in the units of its own inputs."""
    model = zn.models.build("small_cnn", in_channels=1, image_size=8, classes=10).eval()
    inside = zn.models.build(
        "small_cnn", in_channels=1, image_size=8, classes=10, mean=[0.3], std=[0.2]
    ).eval()
    attack = ArtAttack(classifier_of(model, preprocessing=(0.3, 0.2)), "sparse_pgd", budget=3, steps=5)
    direct = zn.attacks.sparse_pgd(inside, x, y, zn.L0(3), steps=5)
    assert np.allclose(attack.generate(x.numpy(), y.numpy()), direct.numpy(), atol=1e-6)


def test_targets(model, x, y):
    classifier = classifier_of(model)
    goal = (y.numpy() + 1) % 10
    found = ArtAttack(classifier, "sparse_pgd", budget=12, targeted=True, steps=40).generate(x.numpy(), goal)
    assert (classifier.predict(found).argmax(1) == goal).any()
    with pytest.raises(ArgumentError, match="y: expected the classes to reach, got None"):
        ArtAttack(classifier, "sparse_pgd", budget=2, targeted=True).generate(x.numpy())
    with pytest.raises(ArgumentError, match="sparse_fool cannot aim"):
        ArtAttack(classifier, "sparse_fool", budget=2, targeted=True)


def test_a_classifier_without_gradients(images):
    train = zn.data.load("digits", "train", 300)
    flat = train.x.flatten(1).numpy()
    forest = RandomForestClassifier(10, random_state=0).fit(flat, train.y.numpy())
    classifier = SklearnClassifier(forest, clip_values=(0.0, 1.0))
    x = images.x.flatten(1).numpy()
    found = ArtAttack(classifier, "sparse_rs", budget=5, queries=30).generate(x, images.y.numpy())
    assert ((found != x).sum(1) <= 5).all()
    before, after = (forest.predict(values) == images.y.numpy() for values in (x, found))
    assert after.sum() < before.sum()
    with pytest.raises(
        ArgumentError, match="sparse_pgd needs the gradients of a PyTorchClassifier, got Scikitlearn"
    ):
        ArtAttack(classifier, "sparse_pgd", budget=5)


def test_a_classifier_without_a_box(model):
    with pytest.raises(ArgumentError, match="estimator: expected clip_values"):
        ArtAttack(classifier_of(model, clip_values=None), "sparse_rs", budget=5)


def test_its_attack_in_our_runner(model, images):
    attack = from_art(FastGradientMethod, eps=0.25)
    evaluation = zn.evaluate(model, images, zn.Linf(0.25), attack=attack)
    (stage,) = evaluation.summary.stages
    assert stage.name == "art FastGradientMethod(eps=0.25)" and stage.backwards
    assert evaluation.robust_accuracy < evaluation.clean_accuracy
    assert zn.verify(evaluation.run, model, images).ok


def test_its_sparse_attack_is_held_to_the_budget(model):
    images = zn.data.load("digits", "test", 4)
    attack = from_art(SaliencyMapMethod, labels=False, theta=1.0, gamma=0.2, verbose=False)
    evaluation = zn.evaluate(model, images, [zn.L0(2), zn.L0(8)], attack=attack)
    assert evaluation.robust_accuracy[8] < evaluation.clean_accuracy
    assert zn.verify(evaluation.run, model, images).ok


def test_its_black_box_attack_on_a_model_without_gradients(model, images):
    box = zn.models.BlackBox(lambda x: model(torch.from_numpy(x)).detach().numpy())
    attack = from_art(SquareAttack, eps=0.3, max_iter=20, verbose=False)
    evaluation = zn.evaluate(box, images, zn.Linf(0.3), attack=attack)
    assert evaluation.robust_accuracy < evaluation.clean_accuracy


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y,
        lambda y: y[:, None],
        lambda y: y.astype(np.int32)[:, None],
        lambda y: y.astype(float),
        lambda y: np.eye(10)[y],
        lambda y: np.eye(10, dtype=bool)[y],
        lambda y: y.tolist(),
    ],
    ids=["indices", "column", "int32 column", "floats", "one-hot", "boolean one-hot", "list"],
)
def test_every_form_of_labels(model, x, y, form):
    attack = ArtAttack(classifier_of(model), "sparse_rs", budget=6, queries=40)
    direct = zn.attacks.sparse_rs(model, x, y, zn.L0(6), queries=40)
    assert np.array_equal(attack.generate(x.numpy(), form(y.numpy())), direct.numpy())


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y[:-1],
        lambda y: y + 0.5,
        lambda y: -1 - y,
        lambda y: np.full((len(y), 10), 0.1),
        lambda y: y.astype(str),
    ],
    ids=["fewer", "fractions", "negative", "soft", "words"],
)
def test_forms_that_are_no_labels(model, x, y, form):
    attack = ArtAttack(classifier_of(model), "sparse_rs", budget=6, queries=4)
    with pytest.raises(ArgumentError, match=r"^y: expected 12 class indices, of shape \(12,\) or \(12, 1\)"):
        attack.generate(x.numpy(), form(y.numpy()))


def test_channels_are_where_the_classifier_says(model, x, y):
    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model
            self.eval()

        def forward(self, v):
            return self.inner(v.permute(0, 3, 1, 2))

    last = classifier_of(Last(), input_shape=(8, 8, 1), channels_first=False)
    given = x.permute(0, 2, 3, 1).contiguous().numpy()
    attack = ArtAttack(last, "sparse_rs", budget=3, queries=40)
    found = attack.generate(given, y.numpy())
    direct = zn.attacks.sparse_rs(model, x, y, zn.L0(3), queries=40)
    assert np.array_equal(found, direct.permute(0, 2, 3, 1).numpy())
    with pytest.raises(ArgumentError, match=r"^channels: inputs of shape"):
        said_nothing = classifier_of(Last(), input_shape=(8, 8, 1))
        ArtAttack(said_nothing, "sparse_rs", budget=3, queries=4).generate(given, y.numpy())


def test_probabilities_are_taken_for_what_they_are(model, x, y):
    """A softmax at the end is undone: as many adversarials as of the logits."""
    soft = torch.nn.Sequential(model, torch.nn.Softmax(1)).eval()
    for name in ("sparse_pgd", "sparse_rs"):
        cost = {"steps": 30} if name == "sparse_pgd" else {"queries": 60}
        broken = [
            (model(torch.from_numpy(ArtAttack(classifier_of(m), name, budget=4, **cost).generate(x.numpy(), y.numpy())))
             .argmax(1) != y).sum()
            for m in (model, soft)
        ]  # fmt: skip
        assert broken[0] == broken[1] > 0
