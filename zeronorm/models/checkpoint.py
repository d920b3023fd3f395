"""Models on disk: weights as safetensors beside a sidecar that a person can read.

    model.safetensors   the network's weights, under the names of its `state_dict`
    model.json          architecture and arguments, digest of the weights, data, accuracy, training, versions

Weights are never unpickled: a `.pt` file that holds more than plain tensors is refused.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import zeronorm
from zeronorm.errors import ArgumentError, one_line
from zeronorm.files import local_path, parse_json, read_file, replace_files
from zeronorm.models.black_box import BlackBox
from zeronorm.models.classifier import ARCHITECTURES, Classifier, build, sides
from zeronorm.models.program import ENDINGS, program_kind

FORMAT = "zeronorm-model/1"
WEIGHTS, SIDECAR = "model.safetensors", "model.json"
_LARGEST, _LARGEST_UNSEEN = 1 << 20, 1 << 10  # whole numbers among a network's arguments
_MUCH = 1 << 26  # weights, a quarter of a gigabyte
RELEASED = Path(__file__).parent / "released"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
OWN_FACTS = ("format", "architecture", "arguments", "parameters", "digest", "versions")


def digest(model: nn.Module) -> str:
    """SHA-256 over the name, dtype, shape and bytes of every parameter and buffer, normalisation included."""
    return digest_tensors(dict(chain(model.named_parameters(), model.named_buffers())))


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the name, dtype, shape and bytes of each tensor, in the order of the names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{sha.hexdigest()}"


def describe(model: Any) -> dict[str, Any]:
    """The facts about a model that belong in the record of a run, ready for JSON.

    Always `architecture` (of a foreign model: the name of its class or function) and, where there are weights,
    `parameters` (their count) and `digest`.  A model of `build` adds its `arguments`, a loaded one what its
    sidecar says: `data`, `accuracy`, `training`, `versions`.
    """
    if isinstance(model, Classifier):
        told = {key: value for key, value in model.facts.items() if key not in OWN_FACTS or key == "versions"}
        facts = {"architecture": model.architecture, "arguments": model.arguments} | told
    elif isinstance(model, BlackBox):
        facts = {"architecture": model.name} | ({"digest": model.digest} if model.digest else {})
    else:
        named = model if hasattr(model, "__qualname__") else type(model)
        facts = {"architecture": f"{named.__module__}.{named.__qualname__}"}
        if isinstance(getattr(model, "certificate", None), str):  # a smoothed classifier: how it votes
            facts["arguments"] = model.arguments
    if isinstance(model, nn.Module):
        facts |= {"parameters": _size(model), "digest": digest(model)}
    return facts


def save(model: nn.Module, path: str | os.PathLike[str], **facts: Any) -> None:
    """Write `model` (made by `build`) and its sidecar to the folder `path`; `facts` go into the sidecar.

    The usual facts are `data`, `accuracy` and `training`.  A crash leaves the old files or the new ones.

    **Raises:** `ArgumentError` for a model that `build` did not make, facts that are not JSON, a folder that
    cannot be written.
    """
    if not isinstance(model, Classifier):
        raise ArgumentError(
            f"model: expected a model made by zeronorm.models.build, got {type(model).__name__}; "
            "save the weights of another with safetensors.torch.save_file"
        )
    if model.architecture not in ARCHITECTURES:
        raise ArgumentError(
            f"model: expected an architecture of zeronorm.models.build, got {model.architecture}, which its own "
            "library saves"
        )
    if reserved := sorted(set(facts) & set(OWN_FACTS)):
        raise ArgumentError(f"facts: expected names other than {', '.join(OWN_FACTS)}, got {reserved[0]!r}")
    sidecar = {
        "format": FORMAT,
        "architecture": model.architecture,
        "arguments": model.arguments,
        "parameters": _size(model),
        "digest": digest(model),
        **facts,
        "versions": {"zeronorm": zeronorm.__version__, "torch": torch.__version__},
    }
    try:
        text = json.dumps(sidecar, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"facts: expected values that JSON can hold, got {facts!r} ({error})") from None
    weights = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()}
    folder = local_path(path, "path")
    try:
        replace_files(
            {folder / WEIGHTS: safetensors.torch.save(weights), folder / SIDECAR: f"{text}\n".encode()}
        )
    except OSError as error:
        raise ArgumentError(f"path: cannot write {error.filename}: {error.strerror}") from None
    model.facts = json.loads(text)


def load(source: str | os.PathLike[str], *, architecture: str | None = None, **arguments: Any) -> Classifier:
    """A trained model in evaluation mode, on the CPU.

    `source` is, in this order:

    - the name of a model that ships with zeronorm, such as `"digits"` (`"./digits"` is always a path);
    - the folder of a checkpoint, as `save` and `zeronorm train` write it;
    - a `.safetensors`, `.pt` or `.pth` file of bare weights, with `architecture` and the `arguments` of
      `build`: `load("lenet.pt", architecture="lenet5", mean=[0.1307], std=[0.3081])`;
    - a Hugging Face Hub id `"owner/name"` that holds the two files of a checkpoint.

    **Raises:** `ArgumentError` for a source that is none of these, damaged files, weights that do not fit their
    architecture or whose digest is not the one in the sidecar, and pickles of more than tensors.
    """
    path = Path(os.path.expanduser(source))
    try:
        path.exists()
    except (OSError, ValueError) as error:  # too long for a name, or of bytes that none may have
        raise ArgumentError(
            f"model: expected a name, a folder or a file, got one that cannot be: {error}"
        ) from None
    folder = None
    if str(source) in released():
        folder = RELEASED / str(source)
    elif path.is_dir():
        folder = path
    elif path.name == WEIGHTS and architecture is None and path.with_name(SIDECAR).exists():
        folder = path.parent
    elif not path.exists():
        folder = _fetch(str(source))
    if folder is None:
        return _load_weights(path, architecture, arguments)
    if architecture is not None or arguments:
        raise ArgumentError(
            f"architecture: expected none beside a checkpoint, whose {SIDECAR} says it, got {architecture!r}"
        )
    return _load_folder(folder)


def released() -> list[str]:
    """The names of the trained models that ship with zeronorm."""
    return sorted(sidecar.parent.name for sidecar in RELEASED.glob(f"*/{SIDECAR}"))


def read_sidecar(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's model.json; `ArgumentError` if missing, damaged or of another format."""
    path = folder / SIDECAR
    try:
        sidecar = parse_json(read_file(path))
    except FileNotFoundError:
        raise ArgumentError(
            f"model: expected the folder of a checkpoint, found no {SIDECAR} in {folder}"
        ) from None
    except (ValueError, OSError) as error:
        raise ArgumentError(f"model: {path} cannot be read: {error}") from None
    found = sidecar.get("format") if isinstance(sidecar, dict) else type(sidecar).__name__
    if found != FORMAT:
        raise ArgumentError(f"model: expected format {FORMAT} in {path}, got {found!r}")
    return sidecar


def _size(model: nn.Module) -> int:
    """How many parameters a model has; of one in whole numbers, how many of these."""
    parameters = sum(p.numel() for p in model.parameters())
    return parameters or sum(tensor.numel() for tensor in model.state_dict().values())


def _load_folder(folder: Path) -> Classifier:
    sidecar = read_sidecar(folder)
    weights = _read_safetensors(folder / WEIGHTS)
    architecture, arguments = str(sidecar.get("architecture")), sidecar.get("arguments", {})
    try:
        _check_size(architecture, arguments, sum(tensor.numel() for tensor in weights.values()))
        model = build(architecture, **arguments)
    except Exception as error:  # whatever arguments of a stranger lead a constructor to
        raise ArgumentError(f"model: {folder / SIDECAR} is damaged: {one_line(error)}") from None
    _fit(model, weights, folder / WEIGHTS)
    if digest(model) != sidecar.get("digest"):
        raise ArgumentError(
            f"model: {folder} is damaged: expected weights of digest {sidecar.get('digest')}, got {digest(model)}"
        )
    model.facts = sidecar
    return model.eval()


def _check_size(architecture: str, arguments: Mapping[str, Any], entries: int) -> None:
    """`ArgumentError` for arguments of a large network, beside the weights of a smaller one, before it takes memory."""
    if architecture not in ARCHITECTURES:
        return
    constructor = ARCHITECTURES[architecture]
    own = {name: arguments[name] for name in inspect.signature(constructor).parameters if name in arguments}
    if "image_size" in own:
        own["image_size"] = sides(own["image_size"])
    numbers = [n for value in own.values() for n in (value if isinstance(value, list | tuple) else [value])]
    largest = max((n for n in numbers if isinstance(n, int)), default=0)
    if largest > _LARGEST:
        raise ArgumentError(f"arguments: expected none above {_LARGEST}, got {largest}")
    # it lists the pairs of classes, and has rows for each
    pairs = own.get("classes", 2) ** 2 if architecture == "l0_lipschitz" else 0
    try:
        with torch.device("meta"):  # takes no memory
            network = constructor(**own) if pairs < _MUCH else None
    except NotImplementedError:  # a constructor that looks at values, which there are none of
        if largest > _LARGEST_UNSEEN:
            raise ArgumentError(f"arguments: expected none above {_LARGEST_UNSEEN}, got {largest}") from None
        return
    size = pairs if network is None else sum(tensor.numel() for tensor in network.state_dict().values())
    if size > max(_MUCH, 2 * entries):
        raise ArgumentError(f"arguments: expected a network of {entries} weights, got one of {size}")


def _load_weights(path: Path, architecture: str | None, arguments: dict[str, Any]) -> Classifier:
    if path.suffix not in (".safetensors", *ENDINGS):
        raise ArgumentError(f"model: expected a folder or a .safetensors, .pt or .pth file, got {path}")
    if (what := program_kind(path)) is not None:
        raise ArgumentError(
            f"model: expected weights, got {path}, {what[0]} ({what[1]}), whose code would run when it is read; if you "
            "trust it, say so with --trust, or read it in a function of your own, package.module:function"
        )
    if architecture is None:
        raise ArgumentError(
            f"architecture: expected one of {', '.join(ARCHITECTURES)} for the bare weights in {path}, got None"
        )
    model = build(architecture, **arguments)
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    _fit(model, read(path), path)
    return model.eval()


def _fetch(hub_id: str) -> Path:
    """The folder of a checkpoint on the Hugging Face Hub, downloaded unless it is in the cache."""
    if hub_id.replace("-", "_") in ARCHITECTURES:
        raise ArgumentError(
            f"model: expected a trained model, got the architecture {hub_id}; "
            f"train one first: zeronorm train --model {hub_id}"
        )
    if not _HUB_ID.fullmatch(hub_id):
        raise ArgumentError(
            f"model: expected a built-in model ({', '.join(released())}), an existing folder or weights file, "
            f"or a Hugging Face Hub id owner/name, got {hub_id!r}"
        )
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(hub_id, allow_patterns=[WEIGHTS, SIDECAR])
    except (OSError, ValueError) as error:  # no network, no such repository, a name the Hub forbids
        raise ArgumentError(
            f"model: found neither a folder {hub_id} nor a Hugging Face Hub model of that name: {one_line(error)}"
        ) from None
    return Path(folder)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(read_file(path))
    except FileNotFoundError:
        raise ArgumentError(f"model: expected the weights {path}, found no such file") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ArgumentError(f"model: {path} is damaged or not safetensors: {one_line(error)}") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the oddities of a file that is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ArgumentError(
            f"model: expected a file of plain tensors, got {path}, which is damaged or needs unpickling that can "
            "run any code; save model.state_dict() instead"
        ) from None
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ArgumentError(f"model: {path} is damaged or not a torch file: {one_line(error)}") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # as many training scripts nest it
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ArgumentError(
            f"model: expected a state_dict of tensors in {path}, got {type(content).__name__}"
        )
    # the names of a network trained within DataParallel
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _fit(model: Classifier, weights: dict[str, Tensor], path: Path) -> None:
    """Put `weights` into the model's network, in their own precision; one line if they do not fit."""
    own = {name: tuple(tensor.shape) for name, tensor in model.network.state_dict().items()}
    came = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if own != came:
        missing, unknown = sorted(set(own) - set(came)), sorted(set(came) - set(own))
        differing = [name for name in own if name in came and own[name] != came[name]]
        faults = [f"{len(missing)} missing (such as {missing[0]})"] if missing else []
        faults += [f"{len(unknown)} unknown (such as {unknown[0]})"] if unknown else []
        if differing:
            name = differing[0]
            faults.append(
                f"{len(differing)} of another shape (such as {name}: {own[name]} here, {came[name]} there)"
            )
        raise ArgumentError(
            f"model: expected the {len(own)} tensors of {model.architecture} in {path}, got {'; '.join(faults)}"
        )
    floating = [tensor.dtype for tensor in weights.values() if tensor.is_floating_point()]
    if floating:  # there are networks of whole numbers
        model.to(floating[0])
    model.network.load_state_dict(weights)
