"""Coverage-guided fuzzing (atheris) of image decoding, zips and features files, each in a process of its own.

One target: python -m hardening.fuzz TARGET INPUTS. A crash, a hang, memory over the limit or an error that no
user should see ends it with the input written to a file.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hardening.table import Row, must_be_zero

__all__ = ["TARGETS", "fuzz", "rows"]

INPUTS = {"images": 60_000, "zips": 60_000, "features": 20_000}  # tried by rows()
# A shell that forks: a process spawned straight from a large one counts that one's memory as its own peak.
_APART = ("sh", "-c", '"$@"; exit $?', "sh")
_LIMITS = ("-timeout=10", "-rss_limit_mb=1500", "-print_final_stats=1")
_MISSING = "atheris is not installed: it is in requirements-dev.txt for Linux on x86-64."


def rows() -> list[Row]:
    """Return the table's lines."""
    lines = []
    for name, inputs in INPUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            tried, words = fuzz(name, inputs, Path(folder))
        if words:
            print(f"fuzzing {name}: {words}", file=sys.stderr)
        lines.append(Row("fuzzing", f"{name}: inputs tried", tried, least=inputs, note="guided by coverage"))
        lines.append(must_be_zero("fuzzing", f"{name}: crashes, hangs and unnamed errors", int(bool(words))))
    return lines


def fuzz(target: str, inputs: int, folder: Path, seed: int = 1) -> tuple[int, str]:
    """Try so many inputs in a child process; return how many were, and what was found, "" for nothing.

    Args:
        target: one of TARGETS.
        inputs: how many to try.
        folder: empty; the first inputs are written here, and what was found.
        seed: of the fuzzer.

    Raises:
        RuntimeError: atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        raise RuntimeError(_MISSING)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(TARGETS[target][1]()):
        (corpus / f"{number:04d}").write_bytes(data)
    command = [
        sys.executable,
        "-m",
        "hardening.fuzz",
        target,
        f"-runs={inputs}",
        f"-seed={seed}",
        "-max_len=4096",
    ]
    found = subprocess.run(
        [*_APART, *command, *_LIMITS, f"-artifact_prefix={folder}/", corpus],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=Path(__file__).parents[1],
        check=False,
    )
    tried = re.search(r"number_of_executed_units: (\d+)", found.stderr)
    words = "" if found.returncode == 0 else "\n".join(found.stderr.splitlines()[-30:])
    return int(tried[1]) if tried else 0, words


def _decode(data: bytes) -> None:
    from nnguide_core.errors import ImageError
    from nnguide_core.images import ImageLimits, decode

    try:
        decode(data, ImageLimits(pixels=1_000_000, side=20_000))
    except ImageError:
        return


def _read_zip(data: bytes) -> None:
    from nnguide_core.archives import inspect, read_member
    from nnguide_core.errors import ArchiveError, ImageError

    path = _written(data)
    try:
        members = inspect(path).members
    except ArchiveError:
        return
    for member in members[:20]:
        try:
            read_member(path, member.location)
        except ImageError:
            continue


def _read_features(data: bytes) -> None:
    from nnguide_core.errors import FeaturesFileError
    from nnguide_core.features.files import judged

    try:
        with _written(data).open("rb") as file:
            judged(file, "own.data", limit=100_000_000, allow_nonfinite=False)
    except FeaturesFileError:
        return


def _written(data: bytes) -> Path:
    path = Path(tempfile.gettempdir()) / "nnguide-fuzz-input"
    path.write_bytes(data)
    return path


def _image_seeds() -> list[bytes]:
    from tests import corpus

    return [case.data for case in corpus.odd_images() if len(case.data) < 4_000]


def _zip_seeds() -> list[bytes]:
    from tests.zip_corpus import RawEntry, image_bytes, raw_zip

    image = image_bytes()
    plain = [RawEntry(b"cat/1.png", image), RawEntry(b"2.png", image, method=0), RawEntry(b"../3.png", b"x")]
    return [raw_zip(plain), raw_zip(plain[:1]), raw_zip([])]


def _features_seeds() -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    from tests.features_corpus import arrays, npz_bytes

    plain = arrays()
    numbers = {name: values for name, values in plain.items() if name != "paths"}
    return [npz_bytes(plain), npz_bytes(plain, np.savez_compressed), npz_bytes(numbers), save(numbers)]


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "images": (_decode, _image_seeds),
    "zips": (_read_zip, _zip_seeds),
    "features": (_read_features, _features_seeds),
}


def main(arguments: list[str]) -> None:
    """Fuzz one target for ever, or as libFuzzer's options say."""
    import atheris

    target, *options = arguments
    tempfile.tempdir = tempfile.mkdtemp()
    with atheris.instrument_imports(include=["nnguide_core", "PIL", "zipfile", "numpy.lib"]):
        import nnguide_core.archives
        import nnguide_core.features.files
        import nnguide_core.images  # noqa: F401
    atheris.Setup(["fuzz", *options], TARGETS[target][0])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
