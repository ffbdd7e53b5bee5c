"""Shared storage: a folder (local, NFS) or any URI that pyarrow or fsspec knows, like s3://bucket/team.

The workspace stays on a disk, where files can be memory-mapped; storage holds the same folders under the same names and
outlives every machine. An upload writes a folder's files first and its list of files last; a folder without a list
counts as absent. A download goes aside, is checked against the list and renamed. So neither side ever shows half a
folder.
"""

import json
from pathlib import Path

from pyarrow import ArrowInvalid, fs

from retreever.errors import StorageError
from retreever.system.files import find_damaged_files, list_files, write_atomically

FILE_LIST_SUFFIX = ".files.json"
"""Suffix of the list of a folder's files, which lies next to the folder."""


class Storage:
    """Folders under one root.

    Args:
        uri: a folder, or SCHEME://...

    Raises:
        StorageError: no file system knows the scheme, or the package for it is not installed.
    """

    def __init__(self, uri: str):
        self.uri = uri.rstrip("/")
        self.files, root = open_filesystem(self.uri)
        self.root = root.rstrip("/")

    def has(self, name: str) -> bool:
        """Whether storage holds the whole folder `name`."""
        return bool(self.files.get_file_info(self._path_of(name) + FILE_LIST_SUFFIX).type == fs.FileType.File)

    def list_folders(self, parent: str) -> list[str]:
        """Names of the whole folders in `parent`, sorted."""
        found = self.files.get_file_info(fs.FileSelector(self._path_of(parent), allow_not_found=True))
        return sorted(
            info.base_name.removesuffix(FILE_LIST_SUFFIX) for info in found if info.base_name.endswith(FILE_LIST_SUFFIX)
        )

    def push(self, folder: Path, name: str) -> None:
        """Upload a folder; one of the same name is replaced."""
        self.drop(name)
        self.files.create_dir(self._path_of(name), recursive=True)
        listed = list_files(folder)
        for relative in listed:
            self._make_parents(f"{name}/{relative}")
            fs.copy_files(
                str(folder / relative),
                self._path_of(f"{name}/{relative}"),
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self.files,
            )
        with self.files.open_output_stream(self._path_of(name) + FILE_LIST_SUFFIX) as stream:
            stream.write(json.dumps({"files": listed}).encode())

    def pull(self, name: str, folder: Path) -> bool:
        """Download the folder `name` to `folder`, whole or not at all; false where storage does not hold it.

        Raises:
            StorageError: a file is missing, or its content differs from what was pushed.
        """
        if not self.has(name):
            return False
        with self.files.open_input_stream(self._path_of(name) + FILE_LIST_SUFFIX) as stream:
            listed = json.loads(stream.read())["files"]
        with write_atomically(folder) as aside:
            download_folder(f"{self.uri}/{name}", aside)
            fault = next(find_damaged_files(aside, listed), None)
            if fault:
                raise StorageError(f"{self.uri}/{name}: not what was stored: {fault}")
        return True

    def drop(self, name: str) -> None:
        """Remove the folder `name`, its list first; do nothing where storage does not hold it."""
        if self.has(name):
            self.files.delete_file(self._path_of(name) + FILE_LIST_SUFFIX)
            self.files.delete_dir(self._path_of(name))

    def _path_of(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _make_parents(self, name: str) -> None:
        self.files.create_dir(self._path_of(name).rpartition("/")[0], recursive=True)


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or URI, and the path in it: pyarrow's own where it has one, else fsspec's.

    Raises:
        StorageError: neither has one for this URI, or it cannot be reached.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
    try:
        return fs.FileSystem.from_uri(uri)
    except (ArrowInvalid, NotImplementedError):
        pass  # pyarrow, or this build of it, does not know the scheme
    except OSError as error:
        raise StorageError(f"{uri}: cannot be reached: {error}") from None
    try:
        import fsspec

        opened, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: no file system for it: {error}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(opened)), path


def download_folder(uri: str, folder: Path) -> None:
    """Download a folder as it is, without a check of its content.

    Raises:
        StorageError: there is no such folder.
    """
    files, path = open_filesystem(uri)
    if files.get_file_info(path).type != fs.FileType.Directory:
        raise StorageError(f"{uri}: there is no such folder")
    folder.mkdir(parents=True, exist_ok=True)
    fs.copy_files(path, str(folder), source_filesystem=files, destination_filesystem=fs.LocalFileSystem())
