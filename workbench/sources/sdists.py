"""Source archives of a Python registry, fetched without pip: to learn a name and a version, pip would run their code.

The registry is the one that pip is configured for, asked by its simple interface (PEP 503); the checksum in its answer
is held against what comes.
"""

import ast
import html
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from workbench import files
from workbench.errors import UserError

if TYPE_CHECKING:
    import requests

DEFAULT_INDEX = "https://pypi.org/simple"
TIMEOUT_SECONDS = 60
# Of what a registry sends: its list of a package's files, and an archive.
MOST_PAGE_BYTES = 64 * 2**20
MOST_ARCHIVE_BYTES = 64 * 2**30
PIECE_BYTES = 2**20
LINK = re.compile(r"<a\b[^>]*\bhref=[\"']([^\"']+)[\"']", re.IGNORECASE)


def download_sdist(requirement: str, folder: Path) -> Path:
    """Bring the `.tar.gz` of `NAME==VERSION` into `folder`.

    Raises:
        UserError: no registry that pip is configured for has it, or its checksum is another.
    """
    name, _, version = requirement.partition("==")
    wanted = f"{_canonical(name)}-{version}.tar.gz"
    settings = pip_settings()
    for place in settings.get("find-links", []):
        if urlsplit(place).scheme in ("", "file"):
            here = Path(unquote(urlsplit(place).path))
            for archive in here.glob("*.tar.gz") if here.is_dir() else ():
                if _canonical_archive(archive.name) == wanted:
                    return archive
    if "no-index" in settings:
        raise UserError(f"could not fetch {requirement}: pip is told to use no index, and find-links has no {wanted}")
    problems = []
    for index in [*settings.get("index-url", [DEFAULT_INDEX])[:1], *settings.get("extra-index-url", [])]:
        try:
            return _from_index(_session(settings), index, name, wanted, folder)
        except (OSError, LookupError) as error:
            problems.append(f"{urlsplit(index).hostname or index}: {error}")
    raise UserError(
        f"could not fetch {requirement}: {'; '.join(problems) or 'no index'}. Check the network and pip's index "
        "settings (`pip config list`)"
    )


def pip_settings() -> dict[str, list[str]]:
    """What pip is configured with, of what tells where packages come from and how; the environment comes first."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: dict[str, list[str]] = {}
    for line in listed.splitlines():
        key, _, written = line.partition("=")
        section, _, name = key.rpartition(".")
        if section not in (":env:", "global", "download"):  # settings of other commands than `pip download`
            continue
        value = str(ast.literal_eval(written))
        if name in ("index-url", "extra-index-url", "find-links", "cert", "proxy"):
            found.setdefault(name, []).extend(value.split())
        elif name == "no-index" and value.lower() in ("1", "true", "yes", "on"):
            found[name] = [value]
    return found


def _session(settings: Mapping[str, Sequence[str]]) -> "requests.Session":
    """Requests with the certificates and the proxy that pip is configured with."""
    import requests

    session = requests.Session()
    for certificates in settings.get("cert", [])[:1]:
        session.verify = certificates
    for proxy in settings.get("proxy", [])[:1]:
        session.proxies = {"http": proxy, "https": proxy}
    return session


def _from_index(session: "requests.Session", index: str, name: str, wanted: str, folder: Path) -> Path:
    local = urlsplit(index).scheme == "file"
    with _opened(session, f"{index.rstrip('/')}/{_canonical(name)}/", local) as (pieces, base):
        page = b"".join(_bounded(pieces, MOST_PAGE_BYTES, "its list of files"))
    for found in LINK.findall(page.decode("utf-8", errors="replace")):
        address, fragment = urldefrag(urljoin(base, html.unescape(found)))
        file_name = unquote(urlsplit(address).path.rpartition("/")[2])
        if _canonical_archive(file_name) != wanted:
            continue
        archive = folder / file_name
        with _opened(session, address, local) as (pieces, _), archive.open("wb") as file:
            file.writelines(_bounded(pieces, MOST_ARCHIVE_BYTES, file_name))
        kind, _, digest = fragment.partition("=")
        if kind == "sha256" and files.sha256_of(archive) != digest:
            raise LookupError(f"{file_name} has another sha256 than the index says")
        return archive
    raise LookupError(f"no {wanted}")


@contextmanager
def _opened(session: "requests.Session", address: str, local: bool) -> Iterator[tuple[Iterator[bytes], str]]:
    """What stands at an address, in pieces, and where it stood in the end.

    Only an index on this disk may point to this disk.
    """
    import requests

    parts = urlsplit(address)
    if local and parts.scheme == "file":
        path = Path(unquote(parts.path))
        yield iter([(path / "index.html" if path.is_dir() else path).read_bytes()]), address
        return
    try:
        with session.get(address, timeout=TIMEOUT_SECONDS, stream=True) as answer:
            answer.raise_for_status()
            yield answer.iter_content(PIECE_BYTES), answer.url
    except requests.RequestException as error:
        status = getattr(error.response, "status_code", None)
        raise OSError(f"HTTP status {status}" if status else type(error).__name__) from error


def _bounded(pieces: Iterator[bytes], most: int, what: str) -> Iterator[bytes]:
    """The same pieces, unless they are more than `most` bytes together.

    Raises:
        LookupError: they are.
    """
    taken = 0
    for piece in pieces:
        taken += len(piece)
        if taken > most:
            raise LookupError(f"{what} has more than {most:,} bytes")
        yield piece


def _canonical(name: str) -> str:
    """As PEP 503 writes names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _canonical_archive(file_name: str) -> str:
    """`Some_Name-1.0.tar.gz` -> `some-name-1.0.tar.gz`."""
    name, dash, version = file_name.rpartition("-")
    return f"{_canonical(name)}{dash}{version}"
