"""The audit of one case: everything that can be wrong with an image or its masks has a row, or nothing has."""

import imagecodecs
import numpy as np
import pytest
import tifffile

from pipeline.data.audit import Audited, audit_case, content_digest, mask_values, merge_case, mixed_modes
from pipeline.data.geojson import write_geojson
from pipeline.data.labels import write_labels
from pipeline.data.simulate import simulate_image
from pipeline.errors import InputError, MaskError
from pipeline.types import Case, Geometry

SHAPE = (40, 50)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 255, SHAPE).astype(np.uint8)


def disc(y, x, radius=4):
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.asarray(pixels, np.uint8)))
    return path


def instances(folder, masks, image=None):
    """A case of binary mask files, 0/255."""
    image = save(folder / "images" / "a.png", picture() if image is None else image)
    paths = tuple(save(folder / "masks" / f"{n}.png", mask * np.uint8(255)) for n, mask in enumerate(masks))
    return Case("a", image, "images/a.png", paths, "instances")


def labelled(folder, labels):
    """A case with one label image."""
    image = save(folder / "images" / "a.png", picture())
    write_labels(folder / "labels" / "a.tif", np.asarray(labels, np.uint32), Geometry.pixels())
    return Case("a", image, "images/a.png", (folder / "labels" / "a.tif",), "labels")


def codes(audited: Audited):
    return [(finding.code, finding.severity) for finding in audited.findings]


def test_a_clean_case_has_no_findings(tmp_path):
    """Two separate nuclei: two objects, a digest, a shape, features, and nothing to report."""
    audited = audit_case(instances(tmp_path, [disc(10, 10), disc(30, 30)]))
    assert audited.findings == ()
    assert audited.kept
    assert (audited.case.objects, audited.case.shape, audited.mode) == (2, SHAPE, "grey uint8")
    assert audited.labels is not None
    assert np.unique(audited.labels).tolist() == [0, 1, 2]
    assert dict(audited.encodings) == {"0/255": 2}


def test_the_digest_is_what_sha256sum_says(tmp_path):
    """cat image masks/* | sha256sum; the audit, which feeds it while reading, says the same."""
    import hashlib

    case = instances(tmp_path, [disc(10, 10), disc(30, 30)])
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in (case.image, *case.masks))).hexdigest()
    assert content_digest(case) == audit_case(case).case.sha256 == wanted
    one = labelled(tmp_path / "other", disc(5, 5))
    assert content_digest(one) == audit_case(one).case.sha256


def test_a_digest_needs_every_file(tmp_path):
    """A mask that is gone is an InputError that names it."""
    case = instances(tmp_path, [disc(10, 10)])
    case.masks[0].unlink()
    with pytest.raises(InputError, match=r"0\.png"):
        content_digest(case)


def test_an_unreadable_image_takes_its_masks_along_with_two_rows(tmp_path):
    """One row for the image, one for the masks that go unused; the case is left out."""
    case = instances(tmp_path, [disc(10, 10)] * 3)
    case.image.write_bytes(case.image.read_bytes()[:300])
    audited = audit_case(case)
    assert codes(audited) == [("image_unreadable", "error"), ("masks_left_out", "error")]
    assert "3 masks" in audited.findings[1].what
    assert not audited.kept


def test_a_case_without_objects_is_kept(tmp_path):
    """No mask files at all, or only an empty one: zero objects, a note, all-zero labels."""
    for folder, masks in (("none", []), ("empty", [np.zeros(SHAPE, bool)])):
        audited = audit_case(instances(tmp_path / folder, masks))
        assert audited.kept
        assert audited.case.objects == 0
        assert codes(audited)[-1] == ("no_objects", "note")
        assert audited.labels is not None
        assert not audited.labels.any()


def test_a_case_whose_masks_are_all_unusable_is_left_out(tmp_path):
    """It would pass for an empty image otherwise."""
    case = instances(tmp_path, [disc(10, 10)])
    case.masks[0].write_bytes(b"no image")
    audited = audit_case(case)
    assert codes(audited) == [("mask_unreadable", "warning"), ("masks_unusable", "error")]
    assert not audited.kept


def test_a_flat_image_is_noticed(tmp_path):
    """An image of one value is kept, with a warning."""
    audited = audit_case(instances(tmp_path, [disc(10, 10)], np.full(SHAPE, 7)))
    assert codes(audited) == [("image_flat", "warning")]
    assert audited.kept


def test_an_image_that_leaves_out_tiles_is_noticed(tmp_path):
    """It is kept, with a warning that says how many: the masks there have no image."""
    pixels = np.random.default_rng(0).integers(1, 255, (32, 48)).astype(np.uint8)
    tiles = [pixels[y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16, 32)]
    image = tmp_path / "a.tif"
    tifffile.imwrite(image, iter([*tiles[:5], None]), shape=(32, 48), dtype=np.uint8, tile=(16, 16))
    audited = audit_case(Case("a", image, "a.tif"))
    assert codes(audited) == [("missing_tiles", "warning")]
    assert audited.findings[0].what.startswith("1 of 6 tiles")
    assert audited.kept


def test_an_unlabelled_image_is_no_image_without_objects(tmp_path):
    """Its number of objects is not known, rather than 0."""
    audited = audit_case(Case("a", save(tmp_path / "a.png", picture()), "a.png"))
    assert audited.findings == ()
    assert audited.case.objects is None


def test_label_images_are_audited_object_by_object(tmp_path):
    """A hole in object 1, two pieces of object 2, each named."""
    labels = np.zeros(SHAPE, np.uint32)
    labels[2:9, 2:9] = 1
    labels[5, 5] = 0
    labels[20:25, 20:25] = labels[20:25, 30:35] = 2
    audited = audit_case(labelled(tmp_path, labels))
    assert [(f.code, f.file) for f in audited.findings] == [
        ("mask_holes", "a.tif, object 1"),
        ("mask_pieces", "a.tif, object 2"),
    ]
    assert audited.case.objects == 2


@pytest.mark.parametrize(("value", "code"), [(255, "mask_0_255"), (1, "mask_binary")])
def test_a_mask_in_the_place_of_a_label_image_is_taken_apart(tmp_path, value, code):
    """0/255 or 0/1 with two discs: two objects and a warning, not one object numbered 255."""
    audited = audit_case(labelled(tmp_path, (disc(10, 10) | disc(30, 30)) * np.uint32(value)))
    assert codes(audited) == [(code, "warning")]
    assert audited.case.objects == 2
    assert audited.labels is not None
    assert np.unique(audited.labels).tolist() == [0, 1, 2]


def test_a_label_image_of_one_object_is_no_mask(tmp_path):
    """One piece numbered 1 is what it says."""
    assert audit_case(labelled(tmp_path, disc(10, 10))).findings == ()


def test_a_label_image_of_another_size_is_left_out(tmp_path):
    """The error names both shapes."""
    audited = audit_case(labelled(tmp_path, np.ones((40, 51))))
    assert codes(audited) == [("mask_wrong_size", "error")]
    assert "(40, 51)" in audited.findings[0].what
    assert "(40, 50)" in audited.findings[0].what


def test_an_unreadable_label_image_is_left_out(tmp_path):
    """Probabilities are no labels."""
    case = labelled(tmp_path, disc(10, 10))
    tifffile.imwrite(case.masks[0], np.full(SHAPE, 0.5, np.float32))
    assert codes(audit_case(case)) == [("mask_unreadable", "error")]


def test_huge_label_numbers_are_counted(tmp_path):
    """Two objects numbered beyond 2**24 are two objects; what was not looked for is said."""
    labels = np.zeros(SHAPE, np.uint32)
    labels[0, 0], labels[5, 5] = 2**31, 3
    audited = audit_case(labelled(tmp_path, labels))
    assert audited.case.objects == 2
    assert codes(audited) == [("labels_large", "warning")]


def test_outlines_give_the_same_labels(tmp_path):
    """A label image and the GeoJSON written from it are one case."""
    _, labels = simulate_image(np.random.default_rng(0), "fluorescence", SHAPE, density=0.2)
    case = labelled(tmp_path, labels)
    write_geojson(tmp_path / "a.geojson", labels)
    outlines = Case("a", case.image, case.relative, (tmp_path / "a.geojson",), "geojson")
    assert (merge_case(outlines, SHAPE).labels == merge_case(case, SHAPE).labels).all()


def test_a_volume_is_not_taken_apart(tmp_path):
    """3-D labels stay as they are: pieces and holes are looked for in 2-D only."""
    write_labels(tmp_path / "a.tif", np.ones((3, *SHAPE), np.uint32), Geometry.pixels(3))
    case = Case("a", tmp_path / "a.tif", "a.tif", (tmp_path / "a.tif",), "labels")
    merged = merge_case(case, (3, *SHAPE))
    assert (merged.objects, merged.findings) == (1, ())
    with pytest.raises(MaskError, match=r"shape \(3, 40, 50\)"):
        merge_case(case, SHAPE)


def test_mixed_colour_modes_have_a_row_each(tmp_path):
    """Two grey images, one RGB, one 16-bit: a row for each that is not the most frequent."""
    audited = [audit_case(Case(str(n), save(tmp_path / f"{n}.png", picture(n)), f"{n}.png")) for n in range(2)]
    audited.append(audit_case(Case("c", save(tmp_path / "c.png", np.dstack([picture()] * 3)), "c.png")))
    (tmp_path / "d.png").write_bytes(imagecodecs.png_encode(picture().astype(np.uint16)))
    audited.append(audit_case(Case("d", tmp_path / "d.png", "d.png")))
    assert [(f.file, f.what) for f in mixed_modes(audited)] == [
        ("c.png", "1 images are RGB uint8, 2 are grey uint8: c.png"),
        ("d.png", "1 images are grey uint16, 2 are grey uint8: d.png"),
    ]
    assert mixed_modes(audited[:2]) == []


def test_mask_values_are_summed_up(tmp_path):
    """0/255 throughout is a note; 0/255 beside 0/1 is a warning; 0/1 throughout is nothing."""
    many = audit_case(instances(tmp_path / "a", [disc(10, 10), disc(30, 30)]))
    case = instances(tmp_path / "b", [])
    one = audit_case(
        Case("b", case.image, case.relative, (save(tmp_path / "b" / "masks" / "0.png", disc(5, 5)),), "instances")
    )
    assert [(f.severity, f.what) for f in mask_values([many])] == [("note", "2 masks are 0/255")]
    assert [(f.severity, f.what) for f in mask_values([many, one])] == [
        ("warning", "1 masks are 0/1, 2 masks are 0/255")
    ]
    assert mask_values([one]) == []
