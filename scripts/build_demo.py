"""Build nnguide_core/demo again from its sources, with `python -m scripts.build_demo`.

Downloads CIFAR-10 and Fashion-MNIST, trains the classifier (about 15 minutes on two quiet CPU cores, resumed
where it was interrupted), draws and packs the photos, computes their features through the project's own
pipeline and writes the manifest and the data card. Downloads and training state are kept in --cache.
"""

import argparse
import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nnguide_core.datasets import open_dataset
from nnguide_core.demo import FEATURES, IMAGES, demo_sets, demo_spec
from nnguide_core.files import save_tensors
from nnguide_core.models.demo_network import CLASS_NAMES, IMAGE_SIDE, WEIGHTS, DemoResNet
from nnguide_core.records import Dataset
from scripts.demo_card import data_card
from scripts.demo_packing import draw, noise, pack
from scripts.demo_sources import CIFAR_CLASSES, FASHION_CLASSES, PIXEL_HASHES, Split, cifar10, fashion_mnist
from scripts.demo_training import Recipe, accuracy, train

HELD_OUT = ("deer", "truck")  # resemble horse and dog, automobile and ship
PER_CLASS = {"bank": 250, "id_test": 125, "near_ood": 300, "far_ood": 40}
NOISE_COUNT = 100
SEED = 2023
FOLDER = WEIGHTS.parent


def main() -> None:
    """Do all of it; what is in the cache already is not done again."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path("build/demo"), help="downloads and training state")
    cache = parser.parse_args().cache
    training, test = cifar10(cache)
    clothes = fashion_mnist(cache)
    recipe = Recipe(seed=SEED)
    network, seconds = train(*_known(training), recipe, cache / "checkpoint.pt")
    _write_weights(network)
    _write_sets(training, test, clothes)
    sets = [open_dataset(each.path, each.name, each.role) for each in demo_sets()]
    _write_images(sets)
    _write_features(sets)
    manifest = _manifest(network, recipe, seconds, training, test)
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    (FOLDER / "DATA_CARD.md").write_text(data_card(manifest))


def _manifest(
    network: DemoResNet, recipe: Recipe, seconds: float, training: Split, test: Split
) -> dict[str, Any]:
    files = [*(part.path for part in demo_sets()), WEIGHTS, IMAGES, FEATURES]
    return {
        "sources": PIXEL_HASHES,
        "seed": SEED,
        "classes": CLASS_NAMES,
        "held_out": HELD_OUT,
        "recipe": asdict(recipe),
        "training": {
            "images": len(_known(training)[1]),
            "seconds": round(seconds),
            "device": _device(),
            "torch": torch.__version__,
        },
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "accuracy": _accuracy(test),
        "files": {path.name: _described(path) for path in files},
    }


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"


def _known(split: Split) -> tuple[Tensor, Tensor]:
    """Return the known classes' images (N, 3, 32, 32) uint8 and their labels as the network counts them."""
    index = np.array([CLASS_NAMES.index(name) if name in CLASS_NAMES else -1 for name in CIFAR_CLASSES])
    labels = index[split.labels]
    known = labels >= 0
    images = torch.from_numpy(split.pixels[known]).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(labels[known])


def _write_weights(network: DemoResNet) -> None:
    state = network.state_dict()
    # Half precision for the matrices alone: what batch norm holds is small in size and wide in range.
    stored = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    save_file({name: tensor.cpu().contiguous() for name, tensor in stored.items()}, WEIGHTS)


def _write_sets(training: Split, test: Split, clothes: Split) -> None:
    drawn = {
        "bank": draw(training, CIFAR_CLASSES, CLASS_NAMES, PER_CLASS["bank"], SEED),
        "id_test": draw(test, CIFAR_CLASSES, CLASS_NAMES, PER_CLASS["id_test"], SEED + 1),
        "near_ood": draw(test, CIFAR_CLASSES, HELD_OUT, PER_CLASS["near_ood"], SEED + 2),
        "far_ood": draw(clothes, FASHION_CLASSES, FASHION_CLASSES, PER_CLASS["far_ood"], SEED + 3),
        "noise": noise(NOISE_COUNT, IMAGE_SIDE, SEED + 4),
    }
    for name, pictures in drawn.items():
        pack(pictures, FOLDER / f"{name}.zip")


def _write_images(sets: Sequence[Dataset]) -> None:
    looks = {each.name: {image.path: image.look for image in each.images} for each in sets}
    IMAGES.write_text(json.dumps(looks) + "\n")


def _write_features(sets: Sequence[Dataset]) -> None:
    from nnguide_core.features import extract
    from nnguide_core.models import load_model

    classifier = load_model(demo_spec())
    tensors, fingerprints = {}, {}
    for dataset in sets:
        name, made = dataset.name, extract(dataset, classifier)
        tensors[f"{name}.features"], tensors[f"{name}.logits"] = made.features, made.logits
        tensors[f"{name}.ids"] = torch.tensor(
            [list(bytes.fromhex(image)) for image in made.ids], dtype=torch.uint8
        )
        tensors[f"{name}.labels"] = made.labels
        fingerprints[name] = dataset.fingerprint
    save_tensors(FEATURES, tensors, {"model": classifier.fingerprint, "datasets": fingerprints})


def _accuracy(test: Split) -> dict[str, float]:
    network = DemoResNet()
    network.load_state_dict(load_file(WEIGHTS))
    images, labels = _known(test)
    return {"images": len(labels), "share": round(accuracy(network.eval(), images, labels), 4)}


def _described(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    described: dict[str, Any] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        classes = Counter(name.rpartition("/")[0] for name in names)
        described |= {"images": len(names), "classes": {name: classes[name] for name in classes if name}}
    return described


if __name__ == "__main__":
    main()
