"""Label volumes as NIfTI, slice by slice: nothing of the volume's size is held besides the labels.

The bytes depend on the labels, the geometry and the header of the file they are of alone.
"""

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.data.files import atomic_write
from pipeline.data.images import split_suffix
from pipeline.data.niftis import load_nifti
from pipeline.errors import OutputError
from pipeline.types import Array, Geometry, Labels


class _Sink(io.RawIOBase):
    """What nibabel writes to: forwards only, gzipped where asked for (level 6, without name or time)."""

    def __init__(self, file: BinaryIO, packed: bool) -> None:
        self._file, self._written = file, 0
        self._packer = zlib.compressobj(6, wbits=31) if packed else None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(self._packer.compress(data) if self._packer else data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Forwards, over zeros."""
        if whence != io.SEEK_SET or place < self._written:
            raise io.UnsupportedOperation("this file is written in order")
        self.write(bytes(place - self._written))
        return self._written

    def finish(self) -> None:
        if self._packer:
            self._file.write(self._packer.flush())


def write_nifti(path: Path, labels: Labels, dtype: type, geometry: Geometry, like: Path | None) -> str:
    """Write `((Z,) Y, X)` labels as `dtype`, whole or not at all, gzipped where the name says so; returns the sha256.

    Header, affine and shape are those of `like` where that is NIfTI, else the geometry's. Raises OutputError for labels
    that do not fit `like`, and where the file cannot be written.
    """
    image = _image(path, labels.T, dtype, geometry, like)

    def put(file: BinaryIO) -> None:
        sink = _Sink(file, path.name.lower().endswith(".gz"))
        image.to_stream(sink)
        sink.finish()

    return atomic_write(path, put)


def _unit(geometry: Geometry) -> str:
    """The unit of the affine: the spacing's, or mm where a spacing was told that is not the file's own."""
    if geometry.affine is None:
        return geometry.unit
    own = np.linalg.norm(geometry.affine[:3, : len(geometry.spacing)], axis=0)
    return geometry.unit if np.allclose(own, geometry.spacing[::-1], rtol=1e-3) else "mm"


def _image(path: Path, voxels: Array, dtype: type, geometry: Geometry, like: Path | None) -> Any:
    """nibabel's image of voxels (x, y(, z)), which it casts as it writes them."""
    import nibabel

    if not np.can_cast(voxels.dtype, dtype):  # it would scale what does not fit by its type
        voxels = voxels.astype(dtype)
    if like is None or split_suffix(like.name)[1].lower() not in (".nii", ".nii.gz"):
        scale = (*geometry.spacing[::-1], 1.0)[:3]
        affine = np.diag((*scale, 1.0)) if geometry.affine is None else geometry.affine
        image = nibabel.Nifti1Image(voxels, affine)
        image.set_data_dtype(dtype)
        image.header.set_xyzt_units({"um": "micron", "mm": "mm"}.get(_unit(geometry), "unknown"))
        return image
    source = load_nifti(like)
    shape = tuple(int(n) for n in source.shape[:3])
    if int(np.prod(shape)) != voxels.size or tuple(n for n in shape if n > 1) != tuple(
        n for n in voxels.shape if n > 1
    ):
        raise OutputError(
            str(path), f"labels of shape {voxels.T.shape}", f"those of {like.name}, {shape[::-1]}", "use its own labels"
        )
    header = source.header.copy()
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    image = type(source)(voxels.reshape(shape), None, header)
    image.set_sform(*source.header.get_sform(coded=True), update_affine=False)
    image.set_qform(*source.header.get_qform(coded=True), update_affine=False)
    image.header["pixdim"][:5] = source.header["pixdim"][:5]
    return image
