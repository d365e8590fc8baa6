"""Which network: where it comes from, its weights, classes and feature layer; and how the bank is drawn."""

import importlib.util
from pathlib import Path

import streamlit as st

from nnguide_core import devices
from nnguide_core.demo import demo_spec
from nnguide_core.errors import ModelError
from nnguide_core.models import ModelSpec, Precision, available, library_and_name, weights_of
from nnguide_core.paths.allowed import allowed_path
from nnguide_core.settings import REACT_PERCENTILE, BankSettings, Draw
from views import resources, state
from views.text import literal
from views.upload_memory import free

__all__ = ["bank_options", "choose_device", "choose_model", "class_names"]

_DEMO, _TORCHVISION, _TIMM, _OWN = "demo classifier", "torchvision", "timm", "own checkpoint"
_RANDOM = "random weights"
_PATH = "checkpoint.path"  # field of the typed path
_HELD, _LAST, _TAKEN = "checkpoint", "checkpoint_last", "checkpoints_taken"
_PRECISIONS: dict[Precision, str] = {
    "float32": "float32 (exact)",
    "auto": "automatic (bfloat16 where it is fast and safe)",
    "bfloat16": "bfloat16",
}
_DRAWS: dict[Draw, str] = {
    "random": "at random",
    "stratified": "stratified: the same share of every class",
    "balanced": "balanced: the same number of every class",
}
_SCORING = {
    "paper": "paper: a bank image's energy weighs its cosine",
    "cosine": "cosine: neighbours by cosine alone",
}


def choose_model() -> ModelSpec | None:
    """Return the network that the user chooses; None while something is missing."""
    sources = [_DEMO, _TORCHVISION, *([_TIMM] if importlib.util.find_spec("timm") else []), _OWN]
    source = st.segmented_control(
        "Model", sources, default=state.kept("source", _DEMO), required=True, key="source"
    )
    state.keep("source", source)
    if source == _DEMO:
        st.caption("A small classifier of eight CIFAR-10 classes, shipped with the program.")
        return demo_spec()
    if source == _TORCHVISION:
        return _torchvision()
    return _timm() if source == _TIMM else _own()


def choose_device() -> str | None:
    """Return the device that the user chooses to compute on; None for the usual one."""
    usual = devices.describe_device(devices.choose_device())
    names = [devices.AUTO, *devices.available_devices()]
    chosen = st.selectbox(
        "Device",
        names,
        format_func=lambda name: f"Automatic: {usual}" if name == devices.AUTO else name,
        key=state.field("device", devices.AUTO, names),
        help="Where features are computed and neighbours searched. A Mac's GPU (mps) only computes features.",
    )
    return None if chosen == devices.AUTO else chosen


def bank_options(*, with_split: bool = True) -> tuple[BankSettings, float]:
    """Return how the bank is drawn and scored, and the share of an ID dataset that is split into a bank."""
    field = state.field
    first, second, third = st.columns(3)
    percent = first.number_input(
        "share of the bank's images that is used, %", 0.1, 100.0, step=5.0, key=field("bank.percent", 100.0)
    )
    seed = first.number_input("seed of every draw", 0, 2**31, key=field("bank.seed", 0))
    draw = first.selectbox(
        "drawn",
        list(_DRAWS),
        format_func=_DRAWS.__getitem__,
        disabled=percent == 100.0,
        key=field("bank.draw", "random"),
    )
    scoring = second.radio(
        "scoring", list(_SCORING), format_func=_SCORING.__getitem__, key=field("bank.scoring", "paper")
    )
    second.caption(
        "The paper searches the bank rows of highest energy × cosine, so confident training images guide "
        "more; with cosine every bank image counts the same."
    )
    react = third.toggle("ReAct: clip large features", key=field("bank.react", False))
    percentile = third.number_input(
        "at this percentile of the bank's features",
        1.0,
        100.0,
        disabled=not react,
        key=field("bank.percentile", REACT_PERCENTILE),
    )
    offset = third.number_input("energy offset", step=1.0, key=field("bank.offset", 0.0))
    share = 50
    if with_split:
        share = first.number_input(
            "without a separate bank: share of the ID images for it, %", 5, 95, key=field("bank.share", 50)
        )
    settings = BankSettings(
        float(percent) / 100,
        int(seed),
        draw if percent < 100.0 else "random",
        float(percentile) if react else None,
        "cosine" if scoring == "cosine" else "paper",
        float(offset),
    )
    return settings, share / 100


def class_names(key: str, without: str = "for its own") -> tuple[str, ...] | None:
    """Return the class names that the user typed, None where none were, which without explains."""
    text = st.text_area(
        f"class names, one per line, in the order of the model's outputs; empty {without}",
        key=state.field(key, ""),
    )
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    return names or None


def _torchvision() -> ModelSpec:
    names = available()
    left, right = st.columns(2)
    name = left.selectbox("architecture", names, key=state.field("torchvision.name", "resnet50"))
    weights = (*reversed(weights_of(name)), _RANDOM)
    field = state.field(f"torchvision.weights.{name}", weights[0])
    chosen = right.selectbox("weights", weights, key=field)
    st.caption("Weights that are not on this machine yet are downloaded from download.pytorch.org.")
    names_given, layer, precision, size = _details()
    return ModelSpec(
        "torchvision",
        name,
        None if chosen == _RANDOM else chosen,
        class_names=names_given,
        feature_layer=layer,
        image_size=size,
        precision=precision,
    )


def _timm() -> ModelSpec | None:
    left, right = st.columns(2)
    name = left.text_input(
        "timm model name, with or without a weights tag",
        key=state.field("timm.name", ""),
        placeholder="resnet18.a1_in1k",
    )
    pretrained = right.toggle("with its weights", key=state.field("timm.pretrained", True))
    names_given, layer, precision, size = _details()
    if not name.strip():
        return None
    return ModelSpec(
        "timm",
        name.strip(),
        "DEFAULT" if pretrained else None,
        class_names=names_given,
        feature_layer=layer,
        image_size=size,
        precision=precision,
    )


def _own() -> ModelSpec | None:
    path = _checkpoint()
    left, right = st.columns(2)
    architecture = left.text_input(
        "architecture (torchvision's name, or timm:NAME)",
        key=state.field("checkpoint.architecture", "resnet50"),
    )
    count = right.number_input(
        "number of classes, 0 to take it from the checkpoint",
        0,
        10**6,
        key=state.field("checkpoint.count", 0),
    )
    names_given, layer, precision, size = _details("to number them")
    if path is None:
        return None
    if not architecture.strip():
        raise ModelError("The checkpoint needs an architecture: enter a torchvision name, or timm:NAME.")
    return ModelSpec(
        *library_and_name(architecture.strip()),
        checkpoint=path,
        class_names=names_given,
        class_count=int(count) or None,
        feature_layer=layer,
        image_size=size,
        precision=precision,
    )


def _checkpoint() -> Path | None:
    """Return the checkpoint that was typed or uploaded last, and say which one that is; None for none."""
    left, right = st.columns(2)
    label = "path of the checkpoint (safetensors, or weights saved by torch.save)"
    typed = left.text_input(label, key=state.field(_PATH, ""), on_change=state.keep, args=(_LAST, "typed"))
    taken = state.kept(_TAKEN, 0)  # a new key empties the widget
    given = right.file_uploader("or upload it", key=f"checkpoint.upload.{taken}")
    if given is not None:
        uploads = resources.uploads(state.session_id())
        uploads.claim([given.size])
        state.keep(_HELD, uploads.add_file(given.getvalue(), given.name))
        state.keep(_LAST, "uploaded")
        state.keep(_TAKEN, taken + 1)
        free([given])
        st.rerun()
    held: Path | None = state.kept(_HELD)
    path = typed.strip()
    if held is not None and (not path or state.kept(_LAST) == "uploaded"):
        other = f", not {path}: change the path to use that" if path else ""
        st.text(literal(f"The uploaded {held.name} is used{other}."))
        return held
    if held is not None:
        st.text(literal(f"{path} is used, not the uploaded {held.name}: clear the path to use that."))
    return allowed_path(path) if path else None


def _details(
    without_names: str = "for its own",
) -> tuple[tuple[str, ...] | None, str | None, Precision, int | None]:
    """Return class names, feature layer, precision and image size, None where the model's own count."""
    with st.expander("Class names, feature layer, precision"):
        names = class_names("model.classes", without_names)
        left, middle, right = st.columns(3)
        layer = left.text_input(
            "layer whose input is the features; empty to find it",
            key=state.field("model.layer", ""),
        )
        precision = middle.selectbox(
            "precision",
            list(_PRECISIONS),
            format_func=_PRECISIONS.__getitem__,
            key=state.field("model.precision", "float32"),
        )
        side = right.number_input(
            "input size in pixels (0: that of the weights)", 0, 4096, key=state.field("model.side", 0)
        )
    return names, layer.strip() or None, precision, int(side) or None
