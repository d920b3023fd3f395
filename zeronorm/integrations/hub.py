"""The Hugging Face Hub: our models with the methods of `PyTorchModelHubMixin`.

HubClassifier.of(model).save_pretrained("my-model")        # or .push_to_hub("owner/name")
model = HubClassifier.from_pretrained("owner/name")        # or zn.models.load("owner/name")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, snapshot_download

from zeronorm.errors import ArgumentError
from zeronorm.models import Classifier, build, load, save
from zeronorm.models.checkpoint import OWN_FACTS, SIDECAR, WEIGHTS


class HubClassifier(
    Classifier, PyTorchModelHubMixin, library_name="zeronorm", tags=["adversarial-robustness", "l0"]
):
    """A model of `zeronorm.models.build` that the Hub knows how to keep.

    A saved folder holds `config.json` (the two arguments below) and `model.safetensors`, as the mixin has it,
    and beside them the `model.json` of a checkpoint: `zeronorm.models.load` reads it too, and checks the digest.
    """

    def __init__(self, architecture: str, arguments: Mapping[str, Any]) -> None:
        built = build(architecture, **arguments)
        super().__init__(built.architecture, built.arguments, built.normalize, built.network)

    @classmethod
    def of(cls, model: Classifier) -> HubClassifier:
        """The same network, with the mixin's methods."""
        if not isinstance(model, Classifier):
            raise ArgumentError(
                f"model: expected one of zeronorm.models.build, got {type(model).__name__}; a network of your own "
                "takes its architecture's code with it, which the Hub does not keep"
            )
        made = cls(architecture=model.architecture, arguments=model.arguments)
        made.normalize, made.network, made.facts = model.normalize, model.network, model.facts
        return made.train(model.training)

    def _save_pretrained(self, save_directory: Path) -> None:
        told = {name: value for name, value in self.facts.items() if name not in OWN_FACTS}
        save(self, save_directory, **told)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **unused: Any,
    ) -> HubClassifier:
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=[WEIGHTS, SIDECAR],
                )
            )
        return cls.of(load(folder))
