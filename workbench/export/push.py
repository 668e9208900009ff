"""Put an export on a hub of Hugging Face: only what is still what was proven, and only when asked."""

import os
from pathlib import Path

from workbench.errors import UserError
from workbench.export.verify import changes, read_manifest


def push(folder: Path, name: str, private: bool = True) -> str:
    """Upload an export, then hold the checksums that the hub tells against its manifest.

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
    from huggingface_hub import HfApi, RepoFile
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="workbench")
    about = f"{manifest.get('recipe')} by {manifest.get('method')}"
    try:
        address = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=about, delete_patterns="*")
        told = {one.path: one.lfs for one in api.list_repo_tree(name, recursive=True) if isinstance(one, RepoFile)}
    except HFValidationError as error:
        raise UserError(f"--push {name}: {' '.join(str(error).split())}") from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"--push {name}: nobody is logged in: `hf auth login`, or set HF_TOKEN") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"--push {name}: HF_HUB_OFFLINE is set: no hub is asked") from error
    except HfHubHTTPError as error:
        raise UserError(f"--push {name}: the hub refuses: {_refusal(error)}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--push {name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    expected = manifest["files"]
    wrong = [file for file, large in told.items() if large and expected.get(file) not in (None, large.sha256)]
    if wrong:
        raise UserError(f"--push {name}: the hub has other bytes of {', '.join(wrong)}: upload it again")
    return address


def _refusal(error: Exception) -> str:
    """What a hub said, without addresses and requests."""
    message = getattr(error, "server_message", None) or str(error)
    response = getattr(error, "response", None)
    code = f" (HTTP {response.status_code})" if response is not None else ""
    return f"{' '.join(str(message).split())[:200]}{code}"
