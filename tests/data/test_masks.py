"""Merging one mask an object: the smaller wins, ids follow names, and nothing vanishes without a row."""

import struct
import zlib

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Pil

from pipeline.data.masks import merge_masks
from pipeline.data.quickpng import read_boxed

QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def save(folder, masks, value=255):
    paths = []
    for name, mask in masks.items():
        path = folder / f"{name}.png"
        path.write_bytes(imagecodecs.png_encode(np.array(mask, np.uint8) * np.uint8(value)))
        paths.append(path)
    return paths


def codes(merged):
    return [(finding.file, finding.code) for finding in merged.findings]


BIG = [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
SMALL = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_an_overlap_goes_to_the_smaller_object(tmp_path, first, second):
    """The pixel that 9 px and 4 px share belongs to the 4 px, whichever is painted first."""
    merged = merge_masks(save(tmp_path, {first: BIG, second: SMALL}), (4, 4), "case")
    big, small = (1, 2) if first == "a" else (2, 1)
    wanted = [[big, big, big, 0], [big, big, big, 0], [big, big, small, small], [0, 0, small, small]]
    np.testing.assert_array_equal(merged.labels, wanted)
    assert (merged.labels.dtype, merged.objects) == (np.uint32, 2)
    assert codes(merged) == [("b.png", "mask_overlap")]
    assert merged.findings[0].what.startswith("1 px")
    assert f"{second}.png" in merged.findings[0].fix


def test_of_equals_the_first_keeps_its_pixels(tmp_path):
    """Two masks of 2 px that share one: the first name has both, the second the rest."""
    merged = merge_masks(save(tmp_path, {"a": [[1, 1, 0]], "b": [[0, 1, 1]]}), (1, 3), "case")
    np.testing.assert_array_equal(merged.labels, [[1, 1, 2]])


def test_ids_follow_sorted_names(tmp_path):
    """The order in which files are given does not matter; names decide."""
    paths = save(tmp_path, {"c": [[0, 0, 1]], "a": [[0, 1, 0]], "b": [[1, 0, 0]]})
    for order in (paths, paths[::-1]):
        np.testing.assert_array_equal(merge_masks(order, (1, 3), "case").labels, [[2, 1, 3]])


def test_a_hidden_object_has_a_row_and_leaves_no_gap(tmp_path):
    """A mask covered by smaller ones is named, and the ids after it close up."""
    merged = merge_masks(
        save(tmp_path, {"a": [[1, 1, 0]], "b": [[1, 0, 0]], "c": [[0, 1, 0]], "d": [[0, 0, 1]]}), (1, 3), "x"
    )
    np.testing.assert_array_equal(merged.labels, [[1, 2, 3]])
    assert merged.objects == 3
    assert ("a.png", "mask_hidden") in codes(merged)


def test_a_copy_has_a_row(tmp_path):
    """Of two identical masks one is kept."""
    merged = merge_masks(save(tmp_path, {"a": SMALL, "b": SMALL}), (4, 4), "case")
    np.testing.assert_array_equal(merged.labels, SMALL)
    assert codes(merged) == [("b.png", "mask_overlap"), ("b.png", "mask_hidden")]


@pytest.mark.parametrize("value", [1, 255])
def test_0_1_and_0_255_are_the_same(tmp_path, value):
    """Both encodings give the same labels, and are counted."""
    merged = merge_masks(save(tmp_path, {"a": SMALL}, value), (4, 4), "case")
    np.testing.assert_array_equal(merged.labels, SMALL)
    assert (merged.encodings, merged.findings) == ({f"0/{value}": 1}, ())


def test_left_out_masks_each_have_a_row(tmp_path):
    """Empty, wrong size, cut, not an image, gone: five rows, and the good mask is object 1."""
    save(tmp_path, {"empty": np.zeros((4, 4)), "wrong": np.ones((4, 5)), "cut": BIG, "good": SMALL})
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-20])
    (tmp_path / "text.png").write_text("no mask")
    merged = merge_masks([*tmp_path.iterdir(), tmp_path / "gone.png"], (4, 4), "case")
    np.testing.assert_array_equal(merged.labels, SMALL)
    assert dict(codes(merged)) == {
        "cut.png": "mask_unreadable",
        "empty.png": "mask_empty",
        "gone.png": "mask_unreadable",
        "text.png": "mask_unreadable",
        "wrong.png": "mask_wrong_size",
    }
    assert all(finding.case == "case" and finding.fix for finding in merged.findings)


def test_not_binary_is_cut_at_half(tmp_path):
    """Of 0, 50, 100, 200 the values from 100 up are the object."""
    merged = merge_masks(save(tmp_path, {"a": [[0, 50, 100, 200]]}, 1), (1, 4), "case")
    np.testing.assert_array_equal(merged.labels, [[0, 0, 1, 1]])
    assert codes(merged) == [("a.png", "mask_not_binary")]


def test_holes_and_pieces_are_told_and_kept(tmp_path):
    """A ring has a hole, two dots are two pieces, diagonal neighbours are one; all stay as drawn."""
    ring = np.pad(np.ones((3, 3), int), 1)
    ring[2, 2] = 0
    dots, diagonal = np.zeros((5, 5), int), np.zeros((5, 5), int)
    dots[0, 0] = dots[4, 4] = 1
    diagonal[0, 4] = diagonal[1, 3] = 1
    merged = merge_masks(save(tmp_path, {"dots": dots, "ring": ring}), (5, 5), "case")
    np.testing.assert_array_equal(merged.labels, dots + 2 * ring)
    assert codes(merged) == [("dots.png", "mask_pieces"), ("ring.png", "mask_holes")]
    assert merge_masks(save(tmp_path, {"d": diagonal}), (5, 5), "case").findings == ()


def test_colour_and_alpha(tmp_path):
    """The object is found in colour, under an opaque alpha, or in the alpha alone; each is told."""
    inside = np.array(SMALL, np.uint8) * np.uint8(255)
    opaque, blank = np.full_like(inside, 255), np.zeros_like(inside)
    stacks = {"c": [inside] * 3, "o": [inside] * 3 + [opaque], "v": [blank] * 3 + [inside]}
    wanted = {"c": "mask_colour", "o": "mask_alpha", "v": "mask_in_alpha"}
    for name, planes in stacks.items():
        path = tmp_path / f"{name}.png"
        Pil.fromarray(np.stack(planes, axis=-1)).save(path)
        merged = merge_masks([path], (4, 4), "case")
        np.testing.assert_array_equal(merged.labels, SMALL)
        assert codes(merged) == [(path.name, wanted[name])]


def test_other_formats(tmp_path):
    """16-bit and 1-bit PNG, BMP and TIFF masks give the same labels."""
    inside = np.array(SMALL, np.uint8)
    Pil.fromarray(inside.astype(bool)).save(tmp_path / "bit.png")
    Pil.fromarray(inside * np.uint16(65535)).save(tmp_path / "deep.png")
    Pil.fromarray(inside * np.uint8(255)).save(tmp_path / "a.bmp")
    tifffile.imwrite(tmp_path / "a.tif", inside)
    for path in sorted(tmp_path.iterdir()):
        merged = merge_masks([path], (4, 4), "case")
        np.testing.assert_array_equal(merged.labels, SMALL)
        assert merged.findings == ()


def test_what_no_mask_can_be_has_a_row(tmp_path):
    """Negative numbers alone, a volume, a claimed 60,000 x 60,000, and an unknown row filter end in a row each."""
    tifffile.imwrite(tmp_path / "negative.tif", -np.array(SMALL, np.int16))
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 2), np.uint8), np.eye(4)), tmp_path / "volume.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 4, 4), np.uint8), np.eye(4)), tmp_path / "volume2.nii")
    (tmp_path / "claimed.png").write_bytes(encode(60_000, 60_000, b"\0"))
    (tmp_path / "filter.png").write_bytes(encode(4, 4, b"\x09\x01\x01\x01\x01" * 4))
    merged = merge_masks(list(tmp_path.iterdir()), (4, 4), "case")
    assert (merged.objects, merged.labels.any()) == (0, False)
    assert dict(codes(merged)) == {
        "claimed.png": "mask_unreadable",
        "filter.png": "mask_unreadable",
        "negative.tif": "mask_empty",
        "volume.nii": "mask_unreadable",
        "volume2.nii": "mask_unreadable",
    }


def test_no_masks_are_no_objects():
    """An image without a nucleus has zero labels."""
    merged = merge_masks([], (3, 5), "case")
    assert (merged.labels.shape, merged.labels.any(), merged.objects) == ((3, 5), False, 0)


def painter(masks):
    """Pixel by pixel: of the masks that hold it the smallest, of equals the first; then 1, 2, 3 without gaps."""
    labels = np.zeros(masks[0].shape, np.uint32)
    for at in np.ndindex(labels.shape):
        claims = [(int(mask.sum()), k) for k, mask in enumerate(masks, start=1) if mask[at]]
        labels[at] = min(claims)[1] if claims else 0
    kept = [k for k in np.unique(labels) if k]
    return sum(((labels == k) * np.uint32(n) for n, k in enumerate(kept, start=1)), np.zeros_like(labels))


@QUICK
@given(
    masks=st.integers(1, 7).flatmap(lambda n: arrays(bool, st.tuples(st.just(n), st.integers(1, 9), st.integers(1, 9))))
)
def test_it_agrees_with_a_painter_of_single_pixels(tmp_path, masks):
    """Any masks, overlapping or not, give what a loop over pixels gives, and every object left out has a row."""
    paths = save(tmp_path, {f"{k}": mask for k, mask in enumerate(masks)})
    merged = merge_masks(paths, masks.shape[1:], "case")
    np.testing.assert_array_equal(merged.labels, painter(list(masks)))
    lost = sum(code in ("mask_empty", "mask_hidden") for _, code in codes(merged))
    assert merged.objects + lost == len(masks)


def encode(width, height, raw):
    """An 8-bit grey PNG whose filtered rows are `raw`."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@QUICK
@given(data=st.data(), height=st.integers(1, 12), width=st.integers(1, 20))
def test_the_quick_box_agrees_with_libpng(data, height, width):
    """Sparse filtered rows under any of the five filters decode to the same pixels as a whole decode."""
    raw = np.zeros((height, width + 1), np.uint8)
    raw[:, 0] = data.draw(arrays(np.uint8, height, elements=st.integers(0, 4)))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, height - 1)), data.draw(st.integers(1, width))] = data.draw(st.integers(1, 255))
    content = encode(width, height, raw.tobytes())
    box = read_boxed(content)
    assert box is not None
    pixels = np.zeros((height, width), np.uint8)
    pixels[box.top : box.top + box.crop.shape[0], box.left : box.left + box.crop.shape[1]] = box.crop
    np.testing.assert_array_equal(pixels, imagecodecs.png_decode(content).reshape(height, width))
