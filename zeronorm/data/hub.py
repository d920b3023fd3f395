"""Parquet files of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zeronorm.data import parquet
from zeronorm.errors import ArgumentError, one_line

_PATIENCE = 10  # seconds until the Hub has answered


def files(repository: str, split: str, instead: str) -> Iterator[Path]:
    """The files of `split`, each downloaded when it is asked for; `instead` tells a user without network what to do."""
    import huggingface_hub as hub

    # any error: the Hub's client raises its own, its HTTP library's and the operating system's
    try:
        # the listing proper (list_repo_files) would retry for half a minute where there is no network
        siblings = hub.dataset_info(repository, timeout=_PATIENCE).siblings or ()
        names = [file.rfilename for file in siblings]
    except Exception as error:
        try:
            cached = hub.snapshot_download(repository, repo_type="dataset", local_files_only=True)
            found = parquet.local(Path(cached), split)
        except Exception:
            raise _unreachable(repository, error, instead) from None
        yield from found
        return
    for name in parquet.shards(names, split, repository):
        try:
            path = hub.hf_hub_download(repository, name, repo_type="dataset")
        except Exception as error:
            raise _unreachable(f"{repository}/{name}", error, instead) from None
        yield Path(path)


def _unreachable(what: str, error: Exception, instead: str) -> ArgumentError:
    return ArgumentError(
        f"data: expected to download {what} from the Hugging Face Hub, "
        f"got {type(error).__name__}: {one_line(error)}; {instead}"
    )
