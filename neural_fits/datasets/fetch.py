"""Where public data are, how they come here, and whether they arrived whole.

A file of an entry is looked for in this order:

1. the path that the caller gives (`data=`, or `--data` on the command line): the file itself, or a folder that holds
   `FILE` or `ENTRY/FILE`; nothing else is tried then;
2. the folder named by the environment variable ``LCL_DATA``, which holds `ENTRY/FILE` or `FILE`;
3. the user's cache folder (:func:`pooch.os_cache`), where :func:`fetch` puts files unless told otherwise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pooch
from tqdm import tqdm

#: Environment variable that names a folder of local copies.
VARIABLE = "LCL_DATA"
#: How long a server may be silent.
TIMEOUT_S = 30
BLOCK_BYTES = 2**16


@dataclass(frozen=True)
class DataFile:
    """One file of an entry.

    Attributes
    ----------
    name : str
        File name in the entry's folder.
    digest : str, optional
        `"sha256:..."` or `"sha1:..."`; without it the contents cannot be checked.
    size_bytes : int, optional
        Size where it is known.
    address : str, optional
        Where it is downloaded from; without it somebody has to bring the file.
    """

    name: str
    digest: str | None = None
    size_bytes: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Entry:
    """One public data set.

    Attributes
    ----------
    name : str
        Name in the registry, and of its folder.
    title : str
        What it holds, in one line.
    files : tuple of DataFile
        Its files.
    licence : str
        Terms as stated by the source.
    who : str
        Who may use it.
    citation : str
        What to cite.
    source : str
        Where the original is and how to get it, in one sentence.
    bundled : bool
        Whether the files come with the package.
    """

    name: str
    title: str
    files: tuple[DataFile, ...]
    licence: str
    who: str
    citation: str
    source: str
    bundled: bool = False

    @property
    def downloadable(self) -> bool:
        """Whether every file has an address."""
        return all(file.address for file in self.files)

    @property
    def size_bytes(self) -> int | None:
        """Size of all files; None where one is unknown."""
        sizes = [file.size_bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def cache_folder() -> Path:
    """Folder in which downloaded files are kept: ``LCL_DATA`` where it is set, else the user's cache folder.

    Returns
    -------
    Path
        The folder; it need not exist.
    """
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else Path(pooch.os_cache("lcl"))


def places(entry: Entry, data: Path | str | None = None) -> list[Path]:
    """Folders in which the files of an entry are looked for, in order.

    Parameters
    ----------
    entry : Entry
        An entry of the registry.
    data : path, optional
        A folder given by the caller; the only one looked in then.

    Returns
    -------
    list of Path
        Folders that may or may not exist.

    Examples
    --------
    >>> entry = Entry("a", "", (DataFile("a.h5"),), "", "", "", "")
    >>> [str(path) for path in places(entry, "data")]
    ['data', 'data/a']
    """
    if data is not None:
        folder = Path(data).expanduser()
        return [folder, folder / entry.name]
    found = []
    given = os.environ.get(VARIABLE)
    if given:
        found += [Path(given).expanduser() / entry.name, Path(given).expanduser()]
    found.append(Path(pooch.os_cache("lcl")) / entry.name)
    if entry.bundled:
        found.append(Path(__file__).parent)
    return found


def locate(entry: Entry, file: DataFile, data: Path | str | None = None) -> Path | None:
    """Path of a file of an entry on this machine, or None.

    Parameters
    ----------
    entry : Entry
        An entry of the registry.
    file : DataFile
        One of its files.
    data : path, optional
        The file, or a folder that holds it.

    Returns
    -------
    Path or None
        The first of :func:`places` that holds the file.
    """
    if data is not None and Path(data).expanduser().is_file():
        path = Path(data).expanduser()
        return path if len(entry.files) == 1 or path.name == file.name else None
    for folder in places(entry, data):
        if (folder / file.name).is_file():
            return folder / file.name
    return None


def find(entry: Entry, file: DataFile, data: Path | str | None = None) -> Path:
    """Path of a file of an entry whose contents are the registered ones.

    Parameters
    ----------
    entry, file, data
        As in :func:`locate`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileNotFoundError
        If it is not here; the sentence says where it was looked for and how to get it.
    ValueError
        If its contents are not the registered ones.
    """
    path = locate(entry, file, data)
    if path is None:
        looked = ", ".join(str(folder / file.name) for folder in places(entry, data))
        if data is not None and not Path(data).expanduser().exists():
            raise FileNotFoundError(f"There is no file or folder {data}; give the place of {file.name}.")
        raise FileNotFoundError(
            f"{file.name} of {entry.name} is not here (looked for {looked}); `lcl data fetch {entry.name}` gets it "
            f"or says where it is, and --data PATH or the variable {VARIABLE} names a local copy."
        )
    check_contents(path, file)
    return path


def check_contents(path: Path, file: DataFile) -> None:
    """Compare a file with the registered size and hash.

    Parameters
    ----------
    path : Path
        The file.
    file : DataFile
        What it should be.

    Raises
    ------
    ValueError
        If size or hash differ.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_bytes(b"abc")
    >>> check_contents(path, DataFile("a.txt", "sha1:a9993e364706816aba3e25717850c26c9cd0d89d", 3))
    >>> check_contents(path, DataFile("a.txt", size_bytes=4))
    Traceback (most recent call last):
    ...
    ValueError: .../a.txt has 3 bytes, expected 4: it is incomplete or another version; fetch it again.
    """
    size = path.stat().st_size
    if file.size_bytes is not None and size != file.size_bytes:
        raise ValueError(
            f"{path} has {size} bytes, expected {file.size_bytes}: it is incomplete or another version; fetch it again."
        )
    if file.digest is None:
        return
    algorithm, expected = file.digest.split(":")
    digest = pooch.file_hash(str(path), alg=algorithm)
    if digest != expected:
        raise ValueError(
            f"{path} has {algorithm} {digest}, expected {expected}: it is damaged or another version; fetch it again."
        )


def download(file: DataFile, folder: Path | str, *, progress: bool = True) -> Path:
    """Download a file into a folder; the name appears only when the contents are the registered ones.

    A file that is there already and is good is not downloaded; one that is not good is replaced only by a good one.

    Parameters
    ----------
    file : DataFile
        What to download.
    folder : path
        Where to put it; made where it does not exist.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConnectionError
        If the server cannot be reached, refuses, or breaks off.
    ValueError
        If the file has no address or hash, or other contents arrived.
    """
    import requests

    if file.address is None or file.digest is None:
        raise ValueError(f"{file.name} has no address and hash in the registry; it cannot be downloaded.")
    host = urlsplit(file.address).netloc

    def receive(url: str, partial_name: str, _: Any) -> None:
        partial = Path(partial_name)
        # The temporary file that pooch makes is private to its owner; made anew, it has the usual permissions.
        partial.unlink()
        begun, total = False, file.size_bytes
        try:
            with requests.get(url, stream=True, timeout=TIMEOUT_S) as answer:
                answer.raise_for_status()
                begun, total = True, int(answer.headers.get("Content-Length", 0)) or total
                shown = tqdm(total=total, unit="B", unit_scale=True, desc=file.name, disable=not progress)
                with partial.open("wb") as kept, shown as bar:
                    for block in answer.iter_content(BLOCK_BYTES):
                        kept.write(block)
                        bar.update(len(block))
        except requests.exceptions.HTTPError as error:
            answer = f"{error.response.status_code} {error.response.reason}" if error.response is not None else "no"
            raise ConnectionError(f"{host} answered {answer} for {file.name}; nothing was kept.") from None
        except requests.exceptions.RequestException as error:
            if error.response is not None:
                error.response.close()
            if begun:
                raise ConnectionError(
                    f"The download of {file.name} from {host} broke off before its {total or 'last'} bytes were here; "
                    "nothing was kept, so try again."
                ) from None
            raise ConnectionError(
                f"{host} cannot be reached for {file.name} ({type(error).__name__}); check the network or the proxy, "
                "or give a local copy with --data PATH."
            ) from None
        try:
            check_contents(partial, file)
        except ValueError as error:
            was = str(error).removeprefix(str(partial)).split(":")[0]
            raise ValueError(
                f"What {host} sent as {file.name}{was}: it is not the registered file; nothing was kept."
            ) from None

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        return Path(
            pooch.retrieve(
                file.address, known_hash=file.digest, fname=file.name, path=Path(folder), downloader=cast(Any, receive)
            )
        )
    finally:
        logger.setLevel(level)


def fetch(entry: Entry, *, to: Path | str | None = None, progress: bool = True) -> list[Path]:
    """Bring the files of an entry here.

    Parameters
    ----------
    entry : Entry
        An entry of the registry.
    to : path, optional
        Folder for the files; `ENTRY` under :func:`cache_folder` without it.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ConnectionError
        If the server cannot be reached, refuses, or breaks off.
    ValueError
        If the entry cannot be downloaded (the sentence says where the original is), or other contents arrived.
    """
    if entry.bundled:
        return [find(entry, file) for file in entry.files]
    if not entry.downloadable:
        raise ValueError(f"{entry.name} cannot be downloaded by this command. {entry.source}")
    folder = Path(to).expanduser() if to is not None else cache_folder() / entry.name
    return [download(file, folder, progress=progress) for file in entry.files]
