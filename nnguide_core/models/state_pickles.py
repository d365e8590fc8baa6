"""Pickles of checkpoints walked without being run: only what a state dict needs passes, in linear time.

A pickle of 500 bytes can hold tuples whose hash takes for ever, or lists that count as billions of items.
"""

# Walked here, not loaded in a process to be killed: that would copy every weight of an honest checkpoint.

import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any

__all__ = ["PICKLE_LIMIT", "BadPickleError", "check_old", "check_one"]

PICKLE_LIMIT = 4 * 2**20  # bytes of a pickle without its tensors; 25,000 tensors
_MOST_EFFORT = 3_000_000  # opcodes, and items handed to calls; a tensor takes about 50
_MOST_WAITING = 100_000  # values on the stack; pickle itself sets 1,000 items at once
_MOST_DEPTH = 64  # containers in containers
_LONGEST_KEY = 4_096  # characters
_KEYS_BELOW = 2**31  # larger integers may be chosen to collide, which makes a dict quadratic
_MOST_SIZES = 32  # of a tensor
_OLD_PICKLES = 4  # magic number, version, system, object; then the keys of its storages
_ELEMENT_BYTES = {
    "Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16,
    "Float": 4, "Int": 4, "QInt32": 4, "Half": 2, "BFloat16": 2, "Short": 2,
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"}
_EMPTY = {"EMPTY_TUPLE": "tuple", "EMPTY_LIST": "list", "EMPTY_DICT": "dict"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class BadPickleError(ValueError):
    """A pickle that does what no state dict needs; the reason in words."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A class or function that the pickle refers to."""

    text: str


@dataclass(eq=False, slots=True)
class _Box:
    """A container, or what a call gives; copies of it are counted wherever it is used."""

    kind: str
    items: list[Any] = field(default_factory=list)  # of tuples and lists
    weight: int = 1  # values in it, at any depth
    depth: int = 1
    is_used: bool = False

    def hold(self, values: Iterable[Any]) -> None:
        """Take values in; a box that is in another one already would make that one's weight wrong."""
        if self.is_used:
            raise BadPickleError("a container grows after it was used")
        for value in values:
            self.weight += 1
            if isinstance(value, _Box):
                self.weight += value.weight
                self.depth = max(self.depth, 1 + value.depth)
                value.is_used = True
        if self.weight > _MOST_EFFORT or self.depth > _MOST_DEPTH:
            raise BadPickleError("its containers hold each other too often or too deep")


def check_one(file: IO[bytes]) -> int:
    """Walk the next pickle of a file and return how many bytes its tensors claim.

    Raises:
        BadPickleError: it does what no state dict needs.
        ValueError, LookupError: it is damaged.
    """
    walk = _Walk()
    walk.run(file)
    return walk.claimed


def check_old(file: IO[bytes]) -> int:
    """Do the same for the five pickles that torch.save wrote before version 1.6."""
    claimed = sum(check_one(file) for _ in range(_OLD_PICKLES))
    keys = _Walk().run(file)
    if not _is_box(keys, "list") or not all(map(_is_short, keys.items)):
        raise BadPickleError("the keys of its tensors are no texts")
    return claimed


class _Walk:
    """One pass over one pickle, with a stack of what its values would be."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # a mark puts the stack aside
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, tuple[str, int]] = {}  # by key: type and number of elements
        self._effort = 0
        self.claimed = 0  # bytes of all storages

    def run(self, file: IO[bytes]) -> Any:
        """Walk to the pickle's end and return its value."""
        waiting = 0
        for opcode, argument, position in pickletools.genops(file):
            if position is not None and position > PICKLE_LIMIT:
                raise BadPickleError(f"its pickle has more than {PICKLE_LIMIT:,} bytes")
            self._count(1)
            if opcode.name == "STOP":
                break
            waiting = max(waiting, len(self._stack), len(self._below))
            if waiting > _MOST_WAITING:
                raise BadPickleError("too many of its values are not used")
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_Box(_EMPTY[name]))
        elif name in _TUPLES:
            self._tuple(self._pop(_TUPLES[name]))
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name == "GLOBAL":
            self._stack.append(_Name(str(argument).replace(" ", ".")))
        elif name != "PROTO":
            self._build(name)

    def _build(self, name: str) -> None:
        """Do what puts values into one another."""
        match name:
            case "MARK":
                self._below.append(self._stack)
                self._stack = []
            case "TUPLE":
                self._tuple(self._above_mark())
            case "APPEND":
                self._extend(self._pop(1))
            case "APPENDS":
                self._extend(self._above_mark())
            case "SETITEM":
                self._set(self._pop(2))
            case "SETITEMS":
                self._set(self._above_mark())
            case "BUILD":
                self._give_attributes(self._stack.pop())
            case "REDUCE":
                self._call(self._stack.pop())
            case "BINPERSID":
                self._storage(self._stack.pop())
            case _:
                raise BadPickleError(f"it has an opcode {name}, which tensors do not need")

    def _count(self, effort: int) -> None:
        self._effort += effort
        if self._effort > _MOST_EFFORT:
            raise BadPickleError(f"it takes more than {_MOST_EFFORT:,} steps")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise BadPickleError("it takes values that are not there")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _above_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._below.pop()
        return values

    def _tuple(self, items: list[Any]) -> None:
        made = _Box("tuple", items)
        made.hold(items)
        self._stack.append(made)

    def _extend(self, items: list[Any]) -> None:
        target = self._target("list")
        target.items.extend(items)
        target.hold(items)

    def _set(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise BadPickleError("a key has no value")
        for key in items[::2]:
            _check_key(key)
        self._target("dict", "ordered dict").hold(items)

    def _give_attributes(self, values: Any) -> None:
        """Follow what torch does for the _metadata of a state dict."""
        if not _is_box(values, "dict"):
            raise BadPickleError("it sets attributes otherwise than by name")
        self._count(values.weight)
        self._target("ordered dict").hold([values])

    def _target(self, *kinds: str) -> _Box:
        target: _Box = self._stack[-1]
        if not _is_box(target, *kinds):
            raise BadPickleError(f"it fills what is no {kinds[0]}")
        return target

    def _call(self, arguments: Any) -> None:
        name = self._stack[-1].text if isinstance(self._stack[-1], _Name) else ""
        if name not in _CALLS or not _is_box(arguments, "tuple"):
            raise BadPickleError("it calls what makes no tensor")
        kind, least, checks = _CALLS[name]
        given = arguments.items
        if not least <= len(given) <= len(checks) or not _pass(checks, given):
            raise BadPickleError(f"it calls {name} with other values than torch.save writes")
        self._count(arguments.weight)
        made = _Box(kind)
        if kind == "ordered dict":
            made.hold(given)
        self._stack[-1] = made

    def _storage(self, description: Any) -> None:
        """Note a tensor's memory, whose contents lie outside the pickle."""
        parts = description.items if _is_box(description, "tuple") else []
        if not _STORAGE_LEAST <= len(parts) <= len(_STORAGE) or not _pass(_STORAGE, parts):
            raise BadPickleError("it describes the memory of a tensor otherwise than torch.save does")
        key, claim = parts[2], (parts[1].text, parts[4])
        if self._storages.setdefault(key, claim) is claim:
            element = parts[1].text.rpartition(".")[2].removesuffix("Storage")
            self.claimed += parts[4] * _ELEMENT_BYTES.get(element, 1)
        elif self._storages[key] != claim:
            # torch would read it once more for each of them.
            raise BadPickleError("it describes the memory of one tensor in two ways")
        self._stack.append(_Box("storage"))


def _pass(checks: "_Checks", values: list[Any]) -> bool:
    return all(check(value) for check, value in zip(checks, values, strict=False))


def _check_key(key: Any) -> None:
    """Refuse a key that may be slow to hash or to compare."""
    if isinstance(key, str) and not _is_short(key):
        raise BadPickleError(f"a key has {len(key):,} characters, at most {_LONGEST_KEY:,} are read")
    if not (key is None or isinstance(key, str) or (isinstance(key, int) and abs(key) <= _KEYS_BELOW)):
        raise BadPickleError("a key is neither a text nor a small number")


def _is_box(value: Any, *kinds: str) -> bool:
    return isinstance(value, _Box) and value.kind in kinds


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_KEY


def _is_number(value: Any) -> bool:
    return isinstance(value, int)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_sizes(value: Any) -> bool:
    return _is_box(value, "size") or (
        _is_box(value, "tuple") and len(value.items) <= _MOST_SIZES and all(map(_is_number, value.items))
    )


def _is_pairs(value: Any) -> bool:
    """Tell whether it is the list of pairs that Python 2 wrote for an ordered dict."""
    pairs: list[Any] = value.items if _is_box(value, "list") else [None]
    if not all(_is_box(pair, "list", "tuple") and len(pair.items) == 2 for pair in pairs):
        return False
    for pair in pairs:
        _check_key(pair.items[0])
    return True


def _is_view(value: Any) -> bool:
    if value is None:
        return True
    parts = value.items if _is_box(value, "tuple") else []
    return len(parts) == 3 and _is_short(parts[0]) and _is_number(parts[1]) and _is_number(parts[2])


def _is(*kinds: str) -> Callable[[Any], bool]:
    return lambda value: _is_box(value, *kinds)


def _is_hooks(value: Any) -> bool:
    return value is None or _is_box(value, "ordered dict")


_Checks = tuple[Callable[[Any], bool], ...]
_TENSOR: _Checks = (_is("storage"), _is_number, _is_sizes, _is_sizes)
# By name: what the call gives, how many arguments it needs, and what each may be.
_CALLS: dict[str, tuple[str, int, _Checks]] = {
    "collections.OrderedDict": ("ordered dict", 0, (_is_pairs,)),
    "torch.Size": ("size", 1, (_is_sizes,)),
    "torch.device": ("device", 1, (_is_short, _is_number)),
    "torch.nn.parameter.Parameter": ("tensor", 1, (_is("tensor"), _is_flag)),
    "torch._utils._rebuild_parameter": ("tensor", 3, (_is("tensor"), _is_flag, _is_hooks)),
    "torch._utils._rebuild_tensor": ("tensor", 4, _TENSOR),
    "torch._utils._rebuild_tensor_v2": (
        "tensor", 6, (*_TENSOR, _is_flag, _is_hooks, _is("dict", "ordered dict")),
    ),
}  # fmt: skip
_STORAGE_LEAST = 5  # the last part is the old format's alone
_STORAGE: _Checks = (
    lambda value: value == "storage",
    lambda value: isinstance(value, _Name) and value.text.endswith("Storage"),
    _is_short,
    _is_short,
    _is_count,
    _is_view,
)
