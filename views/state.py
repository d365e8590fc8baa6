"""What one browser session has chosen: the only reader and writer of st.session_state and of the address.

The address carries the run, k, the threshold rule, the image and the queue with its filters, so that a link
opens the same view, and the id of the draft of a new run, so that a reload finds it again.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import streamlit as st

from nnguide_core.evaluation import DEFAULT_THRESHOLD
from nnguide_core.names import visible
from nnguide_core.records import Threshold, ThresholdKind
from nnguide_core.settings import DEFAULT_K

__all__ = [
    "ImageKey",
    "Selection",
    "clear_selection",
    "draft",
    "drop_draft",
    "field",
    "fields",
    "fill",
    "forget",
    "go_on_as",
    "has_started",
    "image",
    "k",
    "keep",
    "kept",
    "new_draft",
    "open_image",
    "open_question",
    "question",
    "select",
    "selection",
    "session_id",
    "set_k",
    "set_threshold",
    "set_with_verdicts",
    "start",
    "threshold",
    "typed",
    "with_verdicts",
    "write_address",
]

_PREFIX = "nnguide."
_FIELD = "field."
_ADDRESS_DIGITS = 16  # of the question's fingerprint
_DRAFT = re.compile(r"[0-9a-f]{32}")
_IN_ADDRESS = {  # fields and what the address calls them
    "queue": "queue",
    "order": "order",
    "filter.dataset": "dataset",
    "filter.class": "class",
    "filter.predicted class": "predicted",
}


class ImageKey(NamedTuple):
    """Which image: an ID and an OOD dataset may hold the same bytes, and then each has its own."""

    dataset: str  # its name; "" in an address that names none
    id: str

    def __str__(self) -> str:
        """Return the key as text that any address and any browser takes."""
        return f"{self.id}:{visible(self.dataset)}" if self.dataset else self.id

    @classmethod
    def read(cls, text: str) -> "ImageKey | None":
        """Return the key that str made a text of, its dataset as it is shown; None for an empty text."""
        image, _, dataset = text.partition(":")
        return cls(dataset, image) if image else None


@dataclass(frozen=True)
class Selection:
    """A set of images by dataset and id, never by place in a chart."""

    images: Mapping[str, frozenset[str]]  # dataset name -> image ids

    def of(self, dataset: str) -> frozenset[str]:
        """Return the ids of the images of one dataset that are selected."""
        return self.images.get(dataset, frozenset())


def start(owner: str = "") -> None:
    """Take what the address says into a fresh session; later the session leads and the address follows.

    Args:
        owner: hexadecimal, of who is logged in; what the session uploads can be told by it.
    """
    _keep_fields()  # the page that has just been left takes its widgets with it
    if _get("started"):
        return
    _set("started", True)
    _set("session", owner + secrets.token_hex(16))
    address = st.query_params
    _set("question", address.get("run", ""))
    _set("image", ImageKey.read(address.get("image", "")))
    _set("k", _whole(address.get("k"), DEFAULT_K))
    _set("threshold", _threshold_from(address.get("threshold", "")) or DEFAULT_THRESHOLD)
    _set("draft", named if _DRAFT.fullmatch(named := address.get("draft", "")) else "")
    for name, called in _IN_ADDRESS.items():
        if called in address:
            keep(_FIELD + name, address[called])


def has_started() -> bool:
    """Return whether app.py ran in this session."""
    return bool(_get("started"))


def session_id() -> str:
    """Return what tells this session from every other."""
    return str(_get("session"))


def go_on_as(session: str) -> None:
    """Be the session again that this one was before its page was loaded anew."""
    _set("session", session)


def draft() -> str:
    """Return the id of the draft that this session works on, "" if none."""
    return str(_get("draft", ""))


def new_draft() -> None:
    """Begin a draft with an id of its own."""
    _set("draft", secrets.token_hex(16))


def drop_draft() -> None:
    """Work on no draft."""
    _set("draft", "")


def question() -> str:
    """Return the fingerprint, or its first digits, of the question that the pages show; "" if none."""
    return str(_get("question", ""))


def open_question(fingerprint: str) -> None:
    """Show another question from now on: the image and the selection of the old one are dropped."""
    if question() and not fingerprint.startswith(question()):
        _set("image", None)
        clear_selection()
    _set("question", fingerprint)


def k() -> int:
    """Return the number of neighbours that guide."""
    return int(_get("k", DEFAULT_K))


def set_k(value: int) -> None:
    """Change the number of neighbours."""
    _set("k", value)


def threshold() -> Threshold:
    """Return the rule that sets the threshold."""
    rule: Threshold = _get("threshold", DEFAULT_THRESHOLD)
    return rule


def set_threshold(rule: Threshold) -> None:
    """Change the rule that sets the threshold."""
    _set("threshold", rule)


def selection() -> Selection:
    """Return the images that are selected on every page."""
    chosen: Selection = _get("selection", Selection({}))
    return chosen


def select(images: Mapping[str, frozenset[str]]) -> None:
    """Select images: dataset name -> ids."""
    _set("selection", Selection(images))


def clear_selection() -> None:
    """Select nothing."""
    _set("selection", Selection({}))


def image() -> ImageKey | None:
    """Return the image that is looked at."""
    opened: ImageKey | None = _get("image")
    return opened


def open_image(image: ImageKey | None) -> None:
    """Look at one image, or at none, on every page."""
    _set("image", image)


def with_verdicts() -> bool:
    """Whether metrics are shown with the verdicts applied."""
    return bool(_get("with_verdicts", False))


def set_with_verdicts(value: bool) -> None:
    """Show metrics with or without the verdicts applied."""
    _set("with_verdicts", value)


def kept(name: str, default: Any = None) -> Any:
    """Return what a page kept under a name: a widget's own state is lost when its page is left."""
    return _get(f"page.{name}", default)


def keep(name: str, value: Any) -> None:
    """Keep something of a page for when it is opened again."""
    _set(f"page.{name}", value)


def forget(name: str) -> None:
    """Drop what a page kept under a name."""
    st.session_state.pop(f"{_PREFIX}page.{name}", None)


def field(name: str, default: Any = None, among: Sequence[Any] | None = None) -> str:
    """Return the key of a widget that keeps its value when its page is left; give it no other default.

    Args:
        name: of the field, the same on every page that shows it.
        default: what it holds at first.
        among: what it may hold; anything else, kept from before, becomes the default.
    """
    key = _FIELD + name
    value = st.session_state[key] if key in st.session_state else kept(key, default)
    if among is not None and value not in among:
        value = default
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value
    keep(key, value)
    keep(f"default.{key}", default)
    return key


def fields(beginnings: tuple[str, ...]) -> dict[str, Any]:
    """Return what the fields hold whose names begin so, those of pages that were left as well."""
    _keep_fields()
    start = f"{_PREFIX}page.{_FIELD}"
    named = {key.removeprefix(start): key for key in map(str, st.session_state) if key.startswith(start)}
    return {name: st.session_state[key] for name, key in named.items() if name.startswith(beginnings)}


def typed(key: str) -> str:
    """Return what stands in the text field with this key, also in a callback; "" where there is none."""
    return str(st.session_state.get(key, ""))


def fill(name: str, value: Any) -> None:
    """Set a field before its widget is shown."""
    st.session_state[_FIELD + name] = value
    keep(_FIELD + name, value)


def write_address() -> None:
    """Make the address open this view: called once at the end of a run of the app."""
    rule = threshold()
    wanted = {
        "run": question()[:_ADDRESS_DIGITS],
        "image": str(image() or ""),
        "k": str(k()) if k() != DEFAULT_K else "",
        "threshold": f"{rule.kind}:{rule.level!r}" if rule != DEFAULT_THRESHOLD else "",
        "draft": draft(),
    }
    wanted |= {called: _unusual(name) for name, called in _IN_ADDRESS.items()}
    wanted = {name: value for name, value in wanted.items() if value}
    if dict(st.query_params) != wanted:
        st.query_params.from_dict(wanted)


def _keep_fields() -> None:
    """Copy the fields' values, since Streamlit drops those of widgets that a page no longer shows."""
    # Of other widgets a browser may send values that Streamlit cannot read any more.
    for key in list(st.session_state):
        if isinstance(key, str) and key.startswith(_FIELD) and key in st.session_state:
            keep(key, st.session_state[key])


def _unusual(name: str) -> str:
    """Return what a field holds, as any address takes it; "" for its default."""
    value = kept(_FIELD + name, "")
    return "" if value == kept(f"default.{_FIELD}{name}") else visible(str(value))


def _get(name: str, default: Any = None) -> Any:
    return st.session_state.get(_PREFIX + name, default)


def _set(name: str, value: Any) -> None:
    st.session_state[_PREFIX + name] = value


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and int(text) > 0 else default


def _threshold_from(text: str) -> Threshold | None:
    """Read "kind:level" as write_address writes it; None for anything else, since anyone can type it."""
    kind, _, level = text.partition(":")
    try:
        return Threshold(cast(ThresholdKind, kind), float(level))
    except ValueError:
        return None
