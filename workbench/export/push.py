"""Put an export on a hub of Hugging Face: only what is still what was proven, and only when asked."""

import hashlib
import os
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import UserError
from workbench.export.verify import MANIFEST_FILE, OF_A_HUB, changes, read_manifest

# Files of more bytes than this are large ones on every hub, which tells their sha256.
SMALL_BYTES = 2**26


def push(folder: Path, name: str, private: bool = True) -> str:
    """Upload an export, then hold the checksums that the hub tells of its files against them.

    A repository that has other files is left as it is.

    Who uploads is for `huggingface_hub` to know: `hf auth login`, or the variable HF_TOKEN. The variable HF_ENDPOINT
    names another hub.

    Args:
        folder: of the export.
        name: such as `my-company/bank-model`.
        private: where it is new, whether only its owner sees it.

    Returns:
        Its address.

    Raises:
        UserError: the folder is not what was proven, or the hub can't be reached or refuses.
    """
    manifest = read_manifest(folder)
    if changed := changes(folder, manifest):
        raise UserError(f"{folder} is not what was exported, and stays here: {'; '.join(changed)}")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="workbench")
    about, there = f"{manifest.get('recipe')} by {manifest.get('method')}", {*manifest["files"], MANIFEST_FILE}
    try:
        address = str(api.create_repo(name, private=private, exist_ok=True))
        if foreign := sorted(set(_files(api, name)) - there):
            raise UserError(
                f"--push {name}: it has files that are no part of this export ({', '.join(foreign[:3])}), and would be "
                "loaded with it: take another name, or delete them there"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=about, allow_patterns=sorted(there))
        told = _files(api, name)
    except HFValidationError as error:
        raise UserError(f"--push {name}: {' '.join(str(error).split())}") from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"--push {name}: nobody is logged in: `hf auth login`, or set HF_TOKEN") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"--push {name}: HF_HUB_OFFLINE is set: no hub is asked") from error
    except HfHubHTTPError as error:
        raise UserError(f"--push {name}: the hub refuses: {_refusal(error)}") from error
    except UserError:
        raise
    except Exception as error:  # whatever the library below raises where a network fails
        raise UserError(f"--push {name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if wrong := sorted(file for file in there if told.get(file) not in _marks(folder / file)):
        raise UserError(f"--push {name}: the hub has other bytes of {', '.join(wrong)}: upload it again")
    return address


def _files(api: Any, name: str) -> dict[str, str]:
    """Path -> what the hub tells of the content of each file: sha256 of a large one, git's number of a small one."""
    from huggingface_hub import RepoFile

    return {
        one.path: one.lfs.sha256 if one.lfs else one.blob_id
        for one in api.list_repo_tree(name, recursive=True)
        if isinstance(one, RepoFile) and not OF_A_HUB.match(one.path)
    }


def _marks(path: Path) -> tuple[str, ...]:
    """What a hub may tell of a file that it has whole."""
    found = [files.sha256_of(path)]
    if path.stat().st_size <= SMALL_BYTES:
        content = path.read_bytes()
        found.append(hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest())
    return tuple(found)


def _refusal(error: Exception) -> str:
    """What a hub said, without addresses and requests."""
    message = getattr(error, "server_message", None) or str(error)
    response = getattr(error, "response", None)
    code = f" (HTTP {response.status_code})" if response is not None else ""
    return f"{' '.join(str(message).split())[:200]}{code}"
