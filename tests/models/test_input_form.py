"""How a network wants its images: said in words, and undone before it."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from zeronorm.errors import ArgumentError
from zeronorm.models import BlackBox
from zeronorm.models.input_form import Formed, formed, input_form, split_form


def applied(words, x):
    return nn.Sequential(*input_form(split_form(f"net:{words}")[1]))(x)


def test_every_key():
    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(applied("channels=bgr", x), x[:, [2, 1, 0]])
    assert torch.equal(applied("layout=nhwc", x), x.permute(0, 2, 3, 1))
    torch.testing.assert_close(applied("range=255", x), 255 * x)
    mean, std = torch.tensor([1.0, 2, 3]).view(3, 1, 1), torch.tensor([4.0, 5, 6]).view(3, 1, 1)
    torch.testing.assert_close(applied("mean=1,2,3:std=4,5,6", x), (x - mean) / std)
    torch.testing.assert_close(
        applied("range=255:channels=bgr:mean=1,2,3:std=4,5,6:layout=nhwc", x),
        ((255 * x.flip(1) - mean) / std).permute(0, 2, 3, 1),
    )
    assert input_form({}) == [] and formed(nn.Identity, []) is nn.Identity


def test_a_name_keeps_its_colons():
    assert split_form("my.module:load:range=255:mean=1:std=2") == (
        "my.module:load", {"range": "255", "mean": "1", "std": "2"}
    )  # fmt: skip
    assert split_form("timm:resnet18") == ("timm:resnet18", {})


def test_what_can_only_be_called():
    box = BlackBox(lambda x: x.reshape(len(x), -1)[:, :4], name="mine")
    model = formed(box, input_form({"range": "255"}))
    x = torch.rand(2, 1, 2, 2)
    torch.testing.assert_close(model(x), 255 * x.flatten(1))
    assert isinstance(model, Formed) and model.differentiable is False and model.name == "mine"
    again = pickle.loads(pickle.dumps(Formed(input_form({"range": "2"}), torch.flatten)))
    assert torch.equal(again(x), (2 * x).flatten())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"scale": "2"},
            r"^model: expected keys mean, std, range, channels, layout behind its name, got 'scale'$",
        ),
        ({"range": "x"}, r"^range: expected numbers"),
        ({"range": "0"}, r"^range: expected one number above 0, such as 255, got '0'$"),
        ({"channels": "grb"}, r"^channels: expected rgb or bgr of the model, got 'grb'$"),
        ({"layout": "hwcn"}, r"^layout: expected nchw or nhwc"),
        ({"mean": "1"}, r"^mean, std: expected as many numbers of each"),
        ({"mean": "1", "std": "0"}, r"^mean, std: expected finite numbers, std above 0"),
    ],
)
def test_what_is_none(said, message):
    with pytest.raises(ArgumentError, match=message):
        input_form(said)


def test_a_key_twice():
    with pytest.raises(ArgumentError, match=r"^model: expected range once behind its name"):
        split_form("net:range=1:range=2")
