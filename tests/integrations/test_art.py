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
        input_shape=(1, 8, 8),
        nb_classes=10,
        device_type="cpu",
        **{"clip_values": (0.0, 1.0)} | options,
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
