"""Files that are either whole or not there: written beside, flushed to the disk, then renamed."""

import fcntl
import io
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from symstride.errors import DataError, first_line


class _Recording(io.FileIO):
    """Keeps the first write error instead of raising it.

    HDF5 leaves the process in a state that crashes at exit when its file cannot be flushed, so libraries
    never see the error; `replacing` raises it once they are done.
    """

    error: OSError | None = None

    def write(self, data, /) -> int:
        view = memoryview(data).cast("B")
        rest = view
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self.tell() if size is None else size


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A seekable binary file that takes the place of `path` when the block ends well.

    Raises DataError, leaving what was there untouched, if it cannot be written (a full disk, no permission).
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _Recording(beside, "w+")
        try:
            yield cast(BinaryIO, file)
        except Exception:
            if file.error is None:
                raise
        if file.error is not None:
            raise file.error
        os.fsync(file.fileno())
        file.close()
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{path}: cannot be written ({reason}); nothing that was there before is lost"
        ) from error
    finally:
        if file is not None:
            file.close()
            beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps every other process out of a block with the same folder, which is made if it is not there; those
    on other machines too, where the file system they share has locks.

    A process that was killed lets go by itself. Raises DataError if another one holds on for five seconds.
    """
    path, patience = folder / ".lock", time.monotonic() + 5
    try:
        while (held := _lock(path)) is None:
            if time.monotonic() > patience:
                raise DataError(f"{folder}: another process is writing here; let it finish, or stop it")
            time.sleep(0.05)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror})") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(held)


def _lock(path: Path) -> int | None:
    """The file, opened for this process alone; None where another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # a lock on a folder is not seen over NFS
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks
        return descriptor
    try:
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    os.close(descriptor)  # the one before removed it when it let go
    return None


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as one .npz; DataError if the disk does not take it."""
    with replacing(path) as file:
        np.savez(file, **dict[str, Any](arrays))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `save_arrays` wrote; DataError if the file is missing or damaged."""

    def array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
        if member.compress_type != zipfile.ZIP_STORED:  # what is written here is not: it might be endless
            raise ValueError("compressed")
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    try:
        with zipfile.ZipFile(path) as archive:
            return {m.filename.removesuffix(".npy"): array(archive, m) for m in archive.infolist()}
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error
