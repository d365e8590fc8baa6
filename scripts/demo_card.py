"""The demo's data card, written from the manifest so that no number in it is typed by hand."""

from collections.abc import Iterable
from typing import Any

__all__ = ["data_card"]


def data_card(manifest: dict[str, Any]) -> str:
    """Return DATA_CARD.md for a manifest that build_demo has put together."""
    recipe, training, accuracy = manifest["recipe"], manifest["training"], manifest["accuracy"]
    return _TEXT.format(
        classes=", ".join(manifest["classes"]),
        held_out=" and ".join(manifest["held_out"]),
        seed=manifest["seed"],
        files=_table(
            ("file", "images", "classes", "bytes", "SHA-256"),
            [
                (
                    name,
                    file.get("images", ""),
                    _class_counts(file.get("classes", {})),
                    f"{file['bytes']:,}",
                    f"`{file['sha256']}`",
                )
                for name, file in manifest["files"].items()
            ],
        ),
        sources=_table(
            ("split", "SHA-256"), [(name, f"`{digest}`") for name, digest in manifest["sources"].items()]
        ),
        parameters=f"{manifest['parameters']:,}",
        trained_on=f"{training['images']:,}",
        minutes=round(training["seconds"] / 60),
        device=training["device"],
        torch=training["torch"],
        accuracy=f"{accuracy['share']:.2%}",
        tested_on=f"{accuracy['images']:,}",
        epochs=_listed(epochs for epochs, _ in recipe["cycles"]),
        rates=_listed(rate for _, rate in recipe["cycles"]),
        **{name: recipe[name] for name in ("batch_size", "warm_up", "momentum", "weight_decay", "margin")},
    )


def _listed(values: Iterable[float]) -> str:
    return " and ".join(f"{value:g}" for value in values)


def _class_counts(classes: dict[str, int]) -> str:
    if not classes:
        return ""
    (each,) = set(classes.values())
    return f"{len(classes)} × {each}"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


_TEXT = """# The demo's photos and classifier

Written by `python -m scripts.build_demo`, which makes everything here again from the sources.

## What is here

A classifier that knows eight classes of CIFAR-10 ({classes}) and has never seen the other two ({held_out}).

- `bank.zip`: training photos of the known classes, a part of those that the classifier was trained on.
- `id_test.zip`: photos of the known classes from the test split.
- `near_ood.zip`: photos of {held_out} from the test split. They resemble known classes and are hard.
- `far_ood.zip`: pictures of clothes from Fashion-MNIST's test split, 28×28 grey as published.
- `noise.zip`: 32×32 pictures of uniform random RGB pixels.
- `model.safetensors`: the classifier's weights, matrices stored as float16; computed with in float32.
- `images.json`: a perceptual hash of every picture, to find near-duplicates, so that the demo opens at once.
- `features.safetensors`: the classifier's features and logits of every picture, for the same reason.
  Computing it again from the pictures gives the same scores.

{files}

The pictures of each class were drawn at random without replacement (seed {seed} for the bank, the following
numbers for the other sets). A file's name is its place in the published split, counted from 0. PNG loses
nothing; another version of Pillow or zlib may pack the same pixels into other bytes.

## Sources and terms

- **CIFAR-10**: Alex Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, technical report,
  University of Toronto, 2009. Collected by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton as a labelled part
  of 80 Million Tiny Images, which its authors withdrew in 2020. Its page
  (https://www.cs.toronto.edu/~kriz/cifar.html) names no licence and asks that the report be cited. The photos
  come from the web and their rights stay with their owners; the few thousand here are meant for research and
  demonstration.
- **Fashion-MNIST**: Han Xiao, Kashif Rasul, Roland Vollgraf, *Fashion-MNIST: a Novel Image Dataset for
  Benchmarking Machine Learning Algorithms*, 2017, arXiv 1708.07747. MIT licence, copyright 2017 Zalando SE.
- The noise, the weights and the features were made by this project and are under its licence.

Decoded pixels followed by labels, one byte each, in the published order:

{sources}

## The classifier

`network.DemoResNet`: {parameters} parameters, trained on the {trained_on} training photos of the known
classes in cycles of {epochs} epochs: SGD with Nesterov momentum {momentum}, batches of {batch_size}, weight
decay {weight_decay}, the learning rate rising to {rates} over the first {warm_up:.0%} of each cycle and
falling to zero along a cosine; random flips, and crops after reflecting {margin} pixels; bfloat16 autocast;
no label smoothing. Seed {seed}. It took {minutes} minutes on {device} with torch {torch}. Nothing was chosen
by looking at OOD pictures, and the last epoch was taken, not the best; but the second cycle was added because
the first ended at 90.2 % of the test photos, below the 91 % wanted.

**Test accuracy on the known classes: {accuracy}** of all {tested_on} test photos, with the weights as stored.

## Limits

The near-OOD classes come from the same photo collection as the known ones; the far-OOD pictures are grey and
of another size, so part of what tells them apart is not their content. Results here say how the tool works,
not how well a detector does elsewhere.
"""
