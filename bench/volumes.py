"""Peak memory of segmenting one large volume of classes, in a process of its own.

    python bench/volumes.py [--side 512] [--kind blended|exact] [--folder DIR] [--peer CHECKOUT]

A cube of uint8 (plain NIfTI) goes through a tiny 3-D network with three classes, as `maskline segment` runs it: windows
of 96 voxels blended (InstanceNorm), or exact boxes (BatchNorm). `--peer` is another checkout of this project, whose
peak is printed beside ours, with whether the label files are the same.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WINDOW = 96


def make_model(folder: Path, kind: str) -> None:
    """A model of random weights."""
    import torch

    import unet
    from pipeline.config import ClassesTarget, NucleiUNet, PrepareConfig, ResidualUNet
    from pipeline.model.bundle import ModelRecord, VolumeRecord, save_model
    from pipeline.model.volumes import describe_volume_network

    target = ClassesTarget(names=("none", "a", "b"))
    if kind == "exact":
        network = NucleiUNet(dimensions=3, in_channels=1, out_channels=3, filters=(2, 4))
    else:
        network = ResidualUNet(dimensions=3, in_channels=1, out_channels=3, filters=(2, 4), units=1, norm="instance")
    torch.manual_seed(0)
    built = unet.build(network.kind, **network.model_dump(exclude={"kind"})).eval()
    strides, halos = describe_volume_network(built, 1)
    record = ModelRecord(
        name="volumes",
        network=network,
        prepare=PrepareConfig(channels=1),
        target=target,
        outputs=target.names,
        stride=max(strides),
        halo=max(halos) if halos else None,
        volume=VolumeRecord(strides=strides, halos=halos, window=(WINDOW,) * 3),
    )
    save_model(folder, built, record)


def make_volume(path: Path, side: int) -> None:
    """Smooth structure and noise, written slice by slice."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape((side,) * 3)
    header.set_data_dtype(np.uint8)
    header.set_sform(np.eye(4), code=1)
    header["magic"] = b"n+1"
    header.set_data_offset(352)
    rng, grid = np.random.default_rng(0), np.linspace(0, 12, side)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(header.binaryblock + b"\0" * 4)
        for z in grid:
            plane = 100 + 60 * np.sin(z) * np.sin(grid)[:, None] * np.cos(grid)[None, :]
            file.write((plane + rng.integers(0, 40, plane.shape)).astype(np.uint8).tobytes())


def one(images: Path, model: Path, out: Path) -> None:
    """Segment the folder; the peak of this process."""
    from pipeline.config import SegmentConfig
    from pipeline.runs.segment_folder import plan_segmentation, segment_folder

    config = SegmentConfig(folder=images, out=out, model=str(model), device="cpu", max_megapixels=1e6)
    planned, start = plan_segmentation(config).memory, time.perf_counter()
    summary = segment_folder(config)
    if summary.failed:
        raise SystemExit(str(summary.failures))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    labels = next((out / "labels").iterdir())
    print(json.dumps({"peak": peak, "planned": planned, "wall": time.perf_counter() - start, "labels": str(labels)}))


def in_a_process(checkout: Path, images: Path, model: Path, out: Path) -> dict[str, object]:
    """Segment with the code of a checkout, in a process and a home of their own."""
    command = [sys.executable, str(Path(__file__).absolute()), "--one", str(images), str(model), str(out)]
    env = {**os.environ, "PYTHONPATH": str(checkout), "MASKLINE_HOME": str(out.parent / f"{out.name}-home")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise SystemExit(f"{checkout} failed ({done.returncode}): {done.stderr.strip()[-800:]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--kind", choices=("blended", "exact"), default="blended")
    parser.add_argument("--folder", type=Path, help="where the volume and labels go; a temporary one by default")
    parser.add_argument("--peer", type=Path, help="another checkout to compare with")
    parser.add_argument("--one", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make_model(folder / "model", arguments.kind)
        make_volume(folder / "images" / "cube.nii", arguments.side)
        compare(folder, arguments.peer)


def compare(folder: Path, peer: Path | None) -> None:
    """One line a checkout; the last line is the ratio, where there are two."""
    found = {}
    for name, checkout in {"ours": Path(__file__).parents[1], "peer": peer}.items():
        if checkout is not None:
            found[name] = in_a_process(checkout, folder / "images", folder / "model", folder / name)
            peak, planned, wall = (float(str(found[name][key])) for key in ("peak", "planned", "wall"))
            print(f"{name}: peak {peak / 1e9:.2f} GB, planned {planned / 1e9:.2f} GB, {wall:.0f} s", flush=True)
    if len(found) == 2:
        ours, theirs = (Path(str(found[name]["labels"])).read_bytes() for name in ("ours", "peer"))
        ratio = float(str(found["peer"]["peak"])) / float(str(found["ours"]["peak"]))
        print(f"label files {'the same' if ours == theirs else 'differ'}; peak, peer over ours: {ratio:.1f}x")


if __name__ == "__main__":
    main()
