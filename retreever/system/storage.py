"""Storage that all machines share: a folder (local, NFS) or any URI that pyarrow or fsspec knows, like s3://bucket/team.

The workspace stays on a disk, where files can be memory-mapped; storage holds the same folders under the same names and
outlives every machine. A folder is uploaded with its list of files last, and is there once that list is; it is
downloaded aside, checked against the list and renamed, so that neither side ever shows half a folder.
"""

import json
from pathlib import Path

from pyarrow import ArrowInvalid, fs

from retreever.errors import StorageError
from retreever.system.files import inventory, unsealed, write_aside

LIST = ".files.json"
"""Ending of the list of a folder's files, which lies beside the folder."""


class Storage:
    """Folders under one root.

    Args:
        uri: a folder, or SCHEME://...

    Raises:
        StorageError: no file system knows the scheme, or the package that speaks it is not installed.
    """

    def __init__(self, uri: str):
        self.uri = uri.rstrip("/")
        self.files, root = filesystem(self.uri)
        self.root = root.rstrip("/")

    def has(self, name: str) -> bool:
        """Whether the folder `name` has been pushed whole."""
        return bool(self.files.get_file_info(self._at(name) + LIST).type == fs.FileType.File)

    def names(self, parent: str) -> list[str]:
        """Names of the whole folders in `parent`, sorted."""
        found = self.files.get_file_info(fs.FileSelector(self._at(parent), allow_not_found=True))
        return sorted(info.base_name.removesuffix(LIST) for info in found if info.base_name.endswith(LIST))

    def push(self, folder: Path, name: str) -> None:
        """Upload a folder; one of the same name is replaced."""
        self.drop(name)
        self.files.create_dir(self._at(name), recursive=True)
        listed = inventory(folder)
        for relative in listed:
            self._make_parents(f"{name}/{relative}")
            fs.copy_files(
                str(folder / relative),
                self._at(f"{name}/{relative}"),
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self.files,
            )
        with self.files.open_output_stream(self._at(name) + LIST) as stream:
            stream.write(json.dumps({"files": listed}).encode())

    def pull(self, name: str, folder: Path) -> bool:
        """Download the folder `name` to `folder`, whole or not at all; false where it is not there.

        Raises:
            StorageError: a file is missing or its content is not what was pushed.
        """
        if not self.has(name):
            return False
        with self.files.open_input_stream(self._at(name) + LIST) as stream:
            listed = json.loads(stream.read())["files"]
        with write_aside(folder) as aside:
            fetch(f"{self.uri}/{name}", aside)
            fault = next(unsealed(aside, listed), None)
            if fault:
                raise StorageError(f"{self.uri}/{name}: not what was stored: {fault}")
        return True

    def drop(self, name: str) -> None:
        """Remove the folder `name`, its list first; nothing happens where it is not there."""
        if self.has(name):
            self.files.delete_file(self._at(name) + LIST)
            self.files.delete_dir(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _make_parents(self, name: str) -> None:
        self.files.create_dir(self._at(name).rpartition("/")[0], recursive=True)


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder or URI, and the path in it. pyarrow's own where there is one, else fsspec's.

    Raises:
        StorageError: none knows it.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
    try:
        return fs.FileSystem.from_uri(uri)
    except (ArrowInvalid, NotImplementedError):
        pass  # not a scheme of pyarrow's, or not of this build
    except OSError as error:
        raise StorageError(f"{uri}: cannot be reached: {error}") from None
    try:
        import fsspec

        opened, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: no file system for it: {error}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(opened)), path


def fetch(uri: str, folder: Path) -> None:
    """Download a folder as it is, checked against nothing.

    Raises:
        StorageError: there is no such folder.
    """
    files, path = filesystem(uri)
    if files.get_file_info(path).type != fs.FileType.Directory:
        raise StorageError(f"{uri}: there is no such folder")
    folder.mkdir(parents=True, exist_ok=True)
    fs.copy_files(path, str(folder), source_filesystem=files, destination_filesystem=fs.LocalFileSystem())
