"""The model that is measured is the one that its owner runs, or it is refused in a line that names the part."""

from __future__ import annotations

import collections
import functools
import pickle
import re
import warnings

import pytest
import torch
from small_runs import CLASSES, codes, dataset, images, network
from torch import nn

import zeronorm as zn
from zeronorm import modules
from zeronorm.attacks.batch_under_attack import TILE
from zeronorm.evaluation.batches import InBatches
from zeronorm.models import BlackBox

SHORT = {"steps": 12, "queries": 16}


class Dropping(nn.Module):
    """A network that keeps its dropout on in evaluation mode, as for Monte-Carlo dropout."""

    def __init__(self, inner, layer):
        super().__init__()
        self.inner, self.layer = inner, layer
        self.eval()
        self.layer.train()

    def forward(self, x):
        return self.inner(self.layer(x))


def finding(evaluation, code):
    return next(f for f in evaluation.diagnosis if f["code"] == code)


# -- modes -------------------------------------------------------------------------------------------------


def test_dropout_that_its_owner_keeps_on_is_measured(model):
    x = images(200)
    y = model(x).argmax(1)
    dropping = Dropping(model, nn.Dropout(0.7))
    theirs = float((dropping(x).argmax(1) == y).double().mean())
    assert theirs < 0.8
    evaluation = zn.evaluate(dropping, (x, y), zn.L0(0), "sparse_rs", queries=1)
    assert abs(evaluation.clean_accuracy - theirs) < 0.15
    assert {"randomised-model", "layer-in-training-mode"} <= set(codes(evaluation))
    assert "layer (Dropout) is in training mode" in finding(evaluation, "layer-in-training-mode")["seen"]
    assert dropping.layer.training and not dropping.training


def test_the_same_within_a_function(model):
    dropping = Dropping(model, nn.Dropout(0.7))
    x = images(100)
    evaluation = zn.evaluate(lambda v: dropping(v), (x, model(x).argmax(1)), zn.L0(0), "sparse_rs", queries=1)
    assert {"randomised-model", "layer-in-training-mode"} <= set(codes(evaluation))


@pytest.mark.parametrize("within", ["itself", "a function"])
def test_statistics_of_the_batch_are_refused(within):
    flat = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(25), nn.Linear(25, CLASSES)).eval()
    flat[1].train()
    model = flat if within == "itself" else lambda x: flat(x)
    with pytest.raises(zn.ArgumentError, match=r"^model: .*got 1 \(BatchNorm1d\) in training mode; call its"):
        zn.evaluate(model, (images(8), torch.zeros(8, dtype=torch.int64)), zn.L0(1))


def test_a_layer_that_a_pass_changes_is_refused():
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(25, CLASSES))
    flat = nn.Sequential(nn.Flatten(), normed).eval()
    flat[1].train()
    with pytest.raises(
        zn.ArgumentError, match=r"^model: expected one that a pass leaves as it is, but 1.parametr"
    ):
        zn.evaluate(flat, (images(8), torch.zeros(8, dtype=torch.int64)), zn.L0(1))
    zn.evaluate(flat.eval(), (images(8), torch.zeros(8, dtype=torch.int64)), zn.L0(0))


def test_a_network_in_training_mode_within_a_function_is_refused(model):
    inner = nn.Sequential(nn.Dropout(0.5), network()).train()

    class Holds:
        def __init__(self):
            self.inner = inner

        def __call__(self, x):
            return self.inner(x)

        def method(self, x):
            return self.inner(x)

    holds = Holds()
    data = dataset(model)
    for one in (lambda x: inner(x), holds, holds.method, BlackBox(scores_of(inner))):
        with pytest.raises(zn.ArgumentError, match=r"^model: .*got a Sequential within it in training mode"):
            zn.evaluate(one, data, zn.L0(1), "sparse_rs", queries=2)
    plain = network().train()  # of which no layer minds
    zn.evaluate(lambda x: plain(x), data, zn.L0(1), "sparse_rs", queries=2)
    zn.evaluate(lambda x: inner.eval()(x), data, zn.L0(1), "sparse_rs", queries=2)  # switches it itself


def scores_of(network):
    def function(a):
        with torch.no_grad():
            return network(torch.from_numpy(a)).numpy()

    return function


def test_an_attack_alone_switches_what_is_in_training_mode_and_puts_it_back(model, data):
    inner = network().train()
    zn.attacks.sparse_rs(lambda x: inner(x), data.x, data.y, zn.L0(1), queries=3)
    assert all(layer.training for layer in inner.modules())


GLOBAL = None  # a network of this module, while a test has one
AMONG: dict[str, nn.Module] = {}


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner

    def answer(self, x):
        return self.inner(x)


class Unregistered(nn.Module):
    """A network that holds another where `eval` and `to` do not reach it."""

    def __init__(self, inner):
        super().__init__()
        self.held = [inner]
        self.eval()

    def forward(self, x):
        return self.held[0](x)


class OfClass:
    inner = None

    def __call__(self, x):
        return self.inner(x)


def through_a_global(net):
    globals()["GLOBAL"] = net
    return lambda x: GLOBAL(x)


def through_a_container(net):
    AMONG["one"] = net
    return lambda x: AMONG["one"](x)


def through_a_module(net):
    modules.of_this_test = net
    return lambda x: modules.of_this_test(x)


def through_a_comprehension(net):
    globals()["GLOBAL"] = net
    return lambda x: torch.stack([GLOBAL(part) for part in x[None]])[0]


def wrapped(net):
    def plain(x):
        return net(x)

    @functools.wraps(plain)
    def outer(x):
        return plain(x)

    return outer


HELD = {
    "a closure": lambda net: lambda x: net(x),
    "a global": through_a_global,
    "a global within a comprehension": through_a_comprehension,
    "a container": through_a_container,
    "a module": through_a_module,
    "a default": lambda net: lambda x, net=net: net(x),
    "a keyword's default": lambda net: lambda x, *, net=net: net(x),
    "a partial": lambda net: functools.partial(lambda net, x: net(x), net),
    "a partial's keyword": lambda net: functools.partial(lambda x, net: net(x), net=net),
    "a bound method": lambda net: Slotted(net).answer,
    "a network's own method": lambda net: net.forward,
    "an object": lambda net: type("Holds", (), {"__call__": lambda self, x: self.net[0](x)})(),
    "an object's class": lambda net: type("Mine", (OfClass,), {"inner": net})(),
    "a decorated function": wrapped,
    "a list within a network": Unregistered,
}


def held(how, net):
    model = HELD[how](net)
    if how == "an object":
        model.net = [net]
    return model


@pytest.fixture
def forgetting():
    yield
    globals()["GLOBAL"] = None
    AMONG.clear()
    vars(modules).pop("of_this_test", None)


@pytest.mark.parametrize("how", HELD)
def test_where_a_function_keeps_its_weights(how, forgetting):
    """Its network is found there: its device, its modes, and that it has values at all."""
    meta = network().to("meta")
    assert modules.device_of(held(how, meta)) == torch.device("meta")
    y = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(
        zn.ArgumentError, match=r"^model: expected weights, got a Sequential with some on the meta"
    ):
        zn.evaluate(held(how, meta), (images(4), y), zn.L0(1))
    inner = nn.Sequential(nn.Dropout(0.5), network()).train()
    with pytest.raises(zn.ArgumentError, match=r"^model: .*a Sequential within it in training mode"):
        zn.evaluate(held(how, inner), (images(4), y), zn.L0(1), "sparse_rs", queries=2)
    inner.eval()
    inner[0].train()
    found = zn.evaluate(held(how, inner), (images(4), y), zn.L0(0), "sparse_rs", queries=1)
    assert "0 (Dropout) is in training mode" in finding(found, "layer-in-training-mode")["seen"]


@pytest.mark.parametrize("how", HELD)
def test_a_folder_belongs_to_the_network_that_is_held(how, forgetting, tmp_path):
    one, two = network(), network(seed=5)
    data, quick = dataset(one), {"attack": "sparse_rs", "queries": 4, "out": tmp_path, "name": "mine"}
    first = zn.evaluate(held(how, one), data, zn.L0(1), **quick)
    assert zn.evaluate(held(how, one), data, zn.L0(1), **quick).summary.run == first.summary.run
    assert zn.verify(tmp_path, held(how, one), data)
    with pytest.raises(zn.ArgumentError, match=r"the answers of another model|holds another run"):
        zn.evaluate(held(how, two), data, zn.L0(1), **quick)
    assert not zn.verify(tmp_path, held(how, two), data)


def test_layers_without_weights_are_refused(unchecked):
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)).eval()
    data = images(4), torch.zeros(4, dtype=torch.int64)
    for model in (lazy, lambda x: lazy(x)):
        with pytest.raises(
            zn.ArgumentError, match=r"^model: .*a Sequential with layers that have none before"
        ):
            zn.evaluate(model, data, zn.L0(1))
    lazy(data[0])
    zn.evaluate(lazy, data, zn.L0(0), "sparse_rs", queries=1)


# -- outputs -----------------------------------------------------------------------------------------------


Output = collections.namedtuple("Output", ["logits", "hidden"])


@pytest.mark.parametrize(
    "after, message",
    [
        (lambda z: (z, z), r"got tuple of 2; its logits may be lambda x: model\(x\)\[0\]"),
        (lambda z: {"logits": z}, r"got dict; its logits may be lambda x: model\(x\)\['logits'\]"),
        (lambda z: Output(z, z), r"got Output; its logits are lambda x: model\(x\).logits"),
        (lambda z: z.squeeze(), r"shape \(1, classes\) .* got \(4,\); it squeezes the batch away"),
        (lambda z: z[:, :1], r"of a single logit give lambda x: torch.cat\(\[-model\(x\), model\(x\)\], 1\)"),
        (lambda z: z[:, 0], r"of a single logit give lambda x: torch.cat\(\[-model\(x\)\[:, None\]"),
        (lambda z: z.half().softmax(1), "expected logits, got probabilities"),
        (lambda z: z.bfloat16().softmax(1).float(), "expected logits, got probabilities"),
        (lambda z: 100 * z.softmax(1), "got probabilities in per cent .* divided by 100, their logarithms"),
    ],
)
def test_outputs_that_are_no_logits(model, after, message, unchecked):
    with pytest.raises(zn.ArgumentError, match=f"^model: .*{message}"):
        zn.evaluate(lambda x: after(model(x)), dataset(model), zn.L0(1), **SHORT)


@pytest.mark.parametrize("end, name", [("sigmoid", "sigmoid"), ("tanh", "tanh")])
def test_outputs_squeezed_at_the_end(model, end, name):
    squeezed = zn.evaluate(lambda x: getattr(4 * model(x), end)(), dataset(model), zn.L0(2), **SHORT)
    told = finding(squeezed, "bounded-outputs")
    assert told["level"] == "warning" and told["advice"] == f"return what comes before the {name}"
    assert "bounded-outputs" not in codes(zn.evaluate(model, dataset(model), zn.L0(2), **SHORT))


def test_a_class_ruled_out_is_noticed_like_any_other(model):
    """Minus infinity hides no randomness: its differences are no numbers."""

    def noisy(x):
        z = model(x)
        return (z + 3 * torch.randn_like(z)).masked_fill(torch.arange(CLASSES) == 3, -float("inf"))

    assert "randomised-model" in codes(zn.evaluate(noisy, dataset(model), zn.L0(1), "sparse_rs", queries=4))


def test_inputs_that_are_no_values():
    y = torch.zeros(2, dtype=torch.int64)
    for x, message in (
        (torch.zeros(2, 5, dtype=torch.int64), "got torch.int64; of tokens, which are names and no values"),
        (torch.zeros(2, 5, dtype=torch.uint8), "got torch.uint8; scale 8-bit images by 1/255 first"),
        (torch.zeros(2, 5, device="meta"), "expected values, got a tensor of the meta device"),
    ):
        with pytest.raises(zn.ArgumentError, match=f"^x: .*{message}"):
            zn.evaluate(lambda x: x, (x, y), zn.L0(1))


# -- programs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["scripted", "frozen", "optimised", "exported"])
def test_programs_of_torch(model, data, how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "exported":
            batch = torch.export.Dim("batch", min=1, max=1024)
            one = torch.export.export(model, (data.x,), dynamic_shapes=({0: batch},)).module()
        else:
            one = torch.jit.script(model)
            one = one if how == "scripted" else torch.jit.freeze(one)
            one = torch.jit.optimize_for_inference(one) if how == "optimised" else one
        found = zn.evaluate(one, data, zn.L0(2), **SHORT)
        assert found.robust_accuracy == zn.evaluate(model, data, zn.L0(2), **SHORT).robust_accuracy
        assert "layer-in-training-mode" not in codes(found) and zn.verify(found.run, one, data)


class Counts(nn.Module):
    """Notes how many inputs each pass has, and takes only so many as it is told."""

    def __init__(self, inner, takes=None):
        super().__init__()
        self.inner, self.takes, self.sizes = inner, takes, set()
        self.eval()

    def forward(self, x):
        if self.takes is not None and len(x) not in self.takes:
            raise RuntimeError(f"takes {self.takes} inputs")
        self.sizes.add(len(x))
        return self.inner(x)


@pytest.mark.parametrize("size", [1, 3, 8, 10, 18])
def test_no_pass_is_larger_than_the_batch_asked_for(model, data, size):
    counts = Counts(model)
    found = zn.evaluate(counts, data, zn.L0(2), batch_size=size, **SHORT)
    assert all(n == size if size < TILE else n <= size and n % TILE == 0 for n in counts.sizes)
    assert found.robust_accuracy == zn.evaluate(model, data, zn.L0(2), **SHORT).robust_accuracy
    counts.sizes.clear()
    assert zn.verify(found.run, counts, data)
    assert max(counts.sizes) <= size


@pytest.mark.parametrize("size", [1, 6, 8])
def test_a_model_of_one_batch_size(model, data, size):
    fixed = Counts(model, {size})
    found = zn.evaluate(fixed, data, [zn.L0(1), zn.L0(2)], batch_size=size, **SHORT)
    assert fixed.sizes == {size}
    assert found.robust_accuracy == zn.evaluate(model, data, [zn.L0(1), zn.L0(2)], **SHORT).robust_accuracy
    assert zn.verify(found.run, fixed, data)
    zn.compare(fixed, data, zn.L0(1), ["sparse_rs"], batch_size=size, queries=5)
    with pytest.raises(zn.ArgumentError, match="takes certain batch sizes only needs batch_size"):
        zn.evaluate(fixed, data, zn.L0(1), **SHORT)


# -- where channels are --------------------------------------------------------------------------------------


def test_channels_last_from_the_call_to_the_page(tmp_path):
    first = network(side=8, channels=3)
    data = dataset(first, side=8, channels=3)
    last = data.x.permute(0, 2, 3, 1).contiguous(), data.y
    there = lambda x: first(x.permute(0, 3, 1, 2))  # noqa: E731
    with pytest.raises(zn.ArgumentError, match=r"^channels: inputs of shape \(8, 8, 3\) look as if .*'last'"):
        zn.evaluate(there, last, zn.L0(1), **SHORT)
    options = {"attack": "sparse_rs", "queries": 30}
    found = zn.evaluate(
        there, last, [zn.L0(k, channels="last") for k in (1, 2)], out=tmp_path / "last", **options
    )
    right = zn.evaluate(first, (data.x, data.y), [zn.L0(1), zn.L0(2)], **options)
    assert dict(found.robust_accuracy.items()) == dict(right.robust_accuracy.items())
    assert zn.verify(found.run, there, last)
    page, other = ((run / "report.html").read_text() for run in (found.run, right.run))
    assert "of 64 pixels" in page
    pictures = [sorted(set(re.findall(r"data:image/png;base64,[^\"]+", text))) for text in (page, other)]
    assert pictures[0] == pictures[1] != [], "the same images"
    compared = zn.compare({"a": there, "b": lambda x: there(x) + 0.1}, last, zn.L0(1, channels="last"), "sparse_rs",
                          tmp_path / "both", queries=9)  # fmt: skip
    assert zn.verify_comparison(compared.path, {"a": there, "b": lambda x: there(x) + 0.1}, last)


def test_a_model_may_say_where_its_channels_are():
    first = network(side=8, channels=3)
    data = dataset(first, side=8, channels=3)

    def scores(a):
        with torch.no_grad():
            return first(torch.from_numpy(a).permute(0, 3, 1, 2)).numpy()

    box, last = BlackBox(scores, channels="last"), (data.x.permute(0, 2, 3, 1).contiguous(), data.y)
    found = zn.evaluate(box, last, zn.L0(1), "sparse_rs", queries=9)
    assert found.summary.run["plan"]["threat"]["channels"] == "last"
    assert (found.records["distance"].to_pylist()) and zn.verify(found.run, box, last)
    said = zn.evaluate(box, last, zn.L0(1, channels="first"), "sparse_rs", queries=9)
    assert "channels" not in said.summary.run["plan"]["threat"]


def test_batches_of_a_size_keep_what_a_model_says_of_itself(model):
    box = BlackBox(lambda a: model(torch.from_numpy(a)).detach().numpy())
    for asked in (InBatches(box, 3), pickle.loads(pickle.dumps(InBatches(model, 3)))):
        assert getattr(asked, "differentiable", True) is (asked.model is not box)
        torch.testing.assert_close(asked(images(7)), model(images(7)))
    assert not hasattr(InBatches(model, 3), "abstains") and InBatches(model, 3)(images(0)).shape == (
        0,
        CLASSES,
    )
