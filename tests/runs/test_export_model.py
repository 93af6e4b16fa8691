"""Exported models answer as torch does, carry their record, and pass their formats' own validators."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import unet
from pipeline.config import NucleiUNet, PrepareConfig, ThreeClassTarget
from pipeline.errors import ModelError, OutputError, UsageError
from pipeline.model.bundle import ModelRecord, load_model, save_model
from pipeline.model.halo import probe_halo
from pipeline.model.targets import activate, channel_names
from pipeline.runs import export_model as module
from pipeline.runs.export_model import Probabilities, as_format, export_model

NETWORK = NucleiUNet(filters=(4, 8), out_channels=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a softmax target, on disk."""
    torch.manual_seed(0)
    network = unet.build(NETWORK.kind, **NETWORK.model_dump(exclude={"kind"}))
    record = ModelRecord(
        name="demo",
        network=NETWORK,
        prepare=PrepareConfig(),
        target=ThreeClassTarget(),
        outputs=channel_names(ThreeClassTarget()),
        stride=2,
        halo=probe_halo(network, 3, 2),
    )
    folder = tmp_path_factory.mktemp("models") / "small"
    save_model(folder, network, record)
    return folder


def answer(folder: Path, image: torch.Tensor) -> np.ndarray:
    trained = load_model(folder)
    with torch.inference_mode():
        return activate(trained.network(image), trained.record.target).numpy()


@pytest.mark.slow
def test_a_torch_program_answers_alike_at_any_size(model: Path, tmp_path: Path) -> None:
    """Loaded without maskline's classes: the probabilities of images of other sizes and batches, and the record."""
    exported = export_model(str(model), "torch", tmp_path / "small.pt2")
    assert exported.free_sides and exported.difference < 1e-5
    extra = {"model.json": ""}
    program = torch.export.load(tmp_path / "small.pt2", extra_files=extra).module()
    image = torch.rand(3, 3, 46, 60)
    np.testing.assert_allclose(program(image).detach().numpy(), answer(model, image), atol=1e-5)
    assert json.loads(extra["model.json"])["name"] == "demo"


@pytest.mark.slow
def test_onnx_answers_alike_at_any_size(model: Path, tmp_path: Path) -> None:
    """By onnxruntime, to 1e-4; the record is in the file's metadata."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported = export_model(str(model), "onnx", tmp_path / "small.onnx")
    assert exported.free_sides and exported.difference < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"))
    image = torch.rand(2, 3, 32, 50)
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    np.testing.assert_allclose(found, answer(model, image), atol=1e-4)
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "small.onnx").metadata_props}
    assert json.loads(metadata["maskline.record"]) == json.loads((model / "model.json").read_text())


@pytest.mark.slow
def test_a_bioimageio_package_is_valid(model: Path, tmp_path: Path) -> None:
    """bioimageio.spec's own validator passes it; the test output belongs to the raw test input; "demo" is too short."""
    spec = pytest.importorskip("bioimageio.spec")
    pytest.importorskip("onnxscript")
    export_model(str(model), "bioimageio", tmp_path / "small.zip", author="A. Author", licence="MIT")
    description = spec.load_description(tmp_path / "small.zip", perform_io_checks=True)
    assert description.validation_summary.status in ("passed", "valid-format")
    assert description.name == "demo model"
    assert description.type == "model" and description.license == "MIT" and description.authors[0].name == "A. Author"
    steps = [step.id for step in description.inputs[0].preprocessing]
    assert steps[:3] == ["ensure_dtype", "scale_range", "clip"]
    raw, expected = (spec.utils.load_array(t[0].test_tensor) for t in (description.inputs, description.outputs))
    low, high = np.percentile(raw[0], (1.0, 99.8), axis=(1, 2), keepdims=True)
    prepared = torch.from_numpy(np.clip((raw - low) / (high - low), -0.5, 1.5).astype(np.float32))
    np.testing.assert_allclose(expected, answer(model, prepared), atol=1e-3)


@pytest.mark.parametrize(
    ("author", "licence", "field"),
    [
        ("", "Apache 2.0", "license: got 'Apache 2.0', wanted a name of SPDX's list"),
        ("A/B", "MIT", "authors: got 'A/B'"),
    ],
)
def test_a_package_that_bioimageio_would_refuse_says_which_field(
    model: Path, tmp_path: Path, author: str, licence: str, field: str
) -> None:
    """A licence that SPDX does not name and an author with a slash are errors of ours, with what to do."""
    pytest.importorskip("bioimageio.spec")
    from pipeline.runs.bioimageio_package import write_package

    trained = load_model(model)
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=field):
        write_package(
            trained,
            Probabilities(trained),
            tmp_path / "x.onnx",
            tmp_path / "x.zip",
            True,
            author=author,
            licence=licence,
        )
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize("difference", [0.1, float("nan")])
def test_nothing_wrong_is_kept(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float) -> None:
    """An exported model that answers otherwise is refused, and neither it nor a part of it stays."""
    monkeypatch.setattr(module, "_difference", lambda *_: difference)
    monkeypatch.setattr(module, "trace", lambda own, image, _: (torch.export.export(own, (image[:1],)), False))
    with pytest.raises(ModelError, match="at most 1e-04"):
        export_model(str(model), "torch", tmp_path / "x.pt2")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_no_part_of_a_copy_stays(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An existing path and an unknown format are refused; a copy that breaks off leaves nothing behind."""
    with pytest.raises(OutputError, match="something there already"):
        export_model(str(model), "folder", tmp_path)
    with pytest.raises(UsageError, match="one of folder, torch, onnx, bioimageio"):
        as_format("keras")

    def break_off(_: Path, out: Path) -> None:
        out.mkdir()
        (out / "model.json").write_text("{")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "copytree", break_off)
        with pytest.raises(OSError, match="No space left"):
            export_model(str(model), "folder", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []
    export_model(str(model), "folder", tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {p.name for p in model.iterdir()}


def test_another_size_is_looked_at_where_sides_are_free(model: Path) -> None:
    """An exported model that is right at the size it was traced with alone is found out."""
    trained = load_model(model)
    own, image = Probabilities(trained).eval(), module.example_image(trained)
    free, fixed = (module._checks(trained, image, sides) for sides in (True, False))
    assert [tuple(x.shape) for x in free] == [(1, 3, 128, 128), (3, 3, 130, 132)]
    assert [tuple(x.shape) for x in fixed] == [(1, 3, 128, 128)]

    def baked(x: torch.Tensor) -> torch.Tensor:
        return own(x) + float(x.shape[-1] != 128)

    assert module._difference(own, baked, fixed) == 0 and module._difference(own, baked, free) == 1


def test_a_network_may_say_that_its_sides_are_fixed_when_traced() -> None:
    """Torch is not asked to leave them open where that takes it for ever."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1))
    assert unet.traces_at_any_size(network) and module.trace(network, torch.rand(2, 1, 8, 8), 2)[1]
    network[0].fixed_when_traced = True  # type: ignore[assignment]
    assert not unet.traces_at_any_size(network) and not module.trace(network, torch.rand(2, 1, 8, 8), 2)[1]


def test_what_onnx_has_no_layer_for_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter's own error, its first line, and what to do instead."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def refuse(*_: object, **__: object) -> None:
        raise torch.onnx.OnnxExporterError("how to report it") from RuntimeError("no aten.made\nand a long report")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    trained = load_model(model)
    with pytest.raises(ModelError, match=r"got no aten\.made, wanted layers that ONNX has"):
        module.write_onnx(None, trained.network, [], "{}", tmp_path / "x.onnx")  # type: ignore[arg-type]


def test_what_is_missing_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says what to install; a network that cannot be traced says so."""
    import sys

    trained = load_model(model)
    image = module.example_image(trained)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'maskline\[export\]'"):
        module.write_onnx(None, trained.network, [image], "{}", tmp_path / "x.onnx")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    from pipeline.runs.bioimageio_package import write_package

    with pytest.raises(ModelError, match=r"pip install 'maskline\[export\]'"):
        write_package(trained, trained.network, model, tmp_path / "x.zip", True, author="", licence="MIT")

    class Undecided(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ModelError, match="a network that torch can trace"):
        module.trace(Undecided(), image, 2)


def test_the_example_is_large_enough_for_a_tile() -> None:
    """Twice the halo and more, on the stride's grid."""
    trained = load_model(Path(unet.__file__).parents[1] / "pipeline" / "shipped" / "nuclei")
    assert module.example_image(trained).shape == (2, 3, 240, 240)
