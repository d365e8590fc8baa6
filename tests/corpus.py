"""Odd, malformed and hostile images and files, made by code, each with what reading it must give."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

__all__ = [
    "EITHER",
    "OK",
    "Case",
    "FileCase",
    "files",
    "flips",
    "heavy",
    "images",
    "odd_images",
    "picture",
    "tiff",
    "truncations",
]

# How files begin that Pillow only reads; the others begin with their name.
_STARTS = {
    "PSD": b"8BPS\0\1",
    "FLI": bytes(4) + b"\x11\xaf",
    "CUR": b"\0\0\2\0",
    "GBR": b"\0\0\0\x14\0\0\0\1",
    "XPM": b"/* XPM */",
    "PIXAR": b"\200\350\000\000",
    "SUN": b"\x59\xa6\x6a\x95",
    "MCIDAS": b"\0\0\0\0\0\0\0\4",
    "MPEG": b"\0\0\1\xb3",
    "WAL": bytes(32),
}
OK = "ok"
EITHER = ""  # ok or any reason: damage that may happen to leave the picture whole


@dataclass(frozen=True)
class Case:
    """Bytes, and what decoding them must give: OK, EITHER or a regular expression for the reason."""

    name: str
    data: bytes
    expected: str


@dataclass(frozen=True)
class FileCase:
    """Something in a folder that is no plain file, made at a path."""

    name: str
    make: Callable[[Path], None]
    expected: str


def images() -> Iterator[Case]:
    """Yield every image case: odd but fine, truncated, flipped, lying, bombs, not images."""
    yield from odd_images()
    yield from truncations()
    yield from flips()
    yield from lies()
    yield from bombs()
    yield from strangers()


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Return a picture with edges, a gradient and four different corners, in any mode that Pillow writes."""
    width, height = size
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    rgb = Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))
    ImageDraw.Draw(rgb).rectangle((0, 0, width // 3, height // 3), fill=(250, 20, 60))
    if mode in ("I;16", "I;16B"):
        return Image.fromarray((across * 257).astype("<u2" if mode == "I;16" else ">u2"))
    if mode == "I":
        return Image.fromarray((across * 257).astype(np.int32))
    if mode == "F":
        return Image.fromarray((across / 255).astype(np.float32))
    if mode in ("RGBA", "LA"):
        with_alpha = rgb.convert("RGBA")
        with_alpha.putalpha(Image.fromarray(down.astype(np.uint8)))
        return with_alpha.convert(mode)
    return rgb.quantize(16) if mode == "P" else rgb.convert(mode)


def odd_images() -> Iterator[Case]:
    """Yield readable images: every kind, mode, compression, orientation and animation."""
    for mode in ("L", "RGB", "CMYK", "YCbCr"):
        yield _saved(f"jpeg-{mode}", picture(mode), "JPEG")
    yield _saved("jpeg-progressive", picture(), "JPEG", progressive=True)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield _saved(f"png-{mode}", picture(mode), "PNG")
    yield _saved("png-palette-alphas", picture("P"), "PNG", transparency=bytes(range(0, 256, 16)))
    yield _saved("png-transparent-grey", picture("L"), "PNG", transparency=100)
    yield _saved("png-transparent-colour", picture(), "PNG", transparency=(250, 20, 60))
    for depth, kind, channels in ((16, 2, 3), (16, 6, 4), (16, 4, 2)):
        yield Case(f"png-{depth}-bit-{channels}-channels", sixteen_bit_png(kind, channels), OK)
    for lossless in (False, True):
        yield _saved(f"webp-lossless-{lossless}", picture("RGBA"), "WEBP", lossless=lossless)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield _saved(f"bmp-{mode}", picture(mode), "BMP")
    for mode in ("1", "L", "P"):
        yield _saved(f"gif-{mode}", picture(mode), "GIF")
    yield _saved("gif-transparent", picture("P"), "GIF", transparency=3)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F", "LAB", "YCbCr"):
        yield _saved(f"tiff-{mode}", picture(mode), "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"):
        yield _saved(f"tiff-{compression}", picture(), "TIFF", compression=compression)
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [picture().rotate(90 * turn) for turn in range(3)]
        yield _saved(f"{kind.lower()}-animated", frames[0], kind, save_all=True, append_images=frames[1:])
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for orientation in range(1, 9):
            yield _saved(f"{kind.lower()}-exif-{orientation}", picture(), kind, exif=_exif(orientation))
    yield _saved("jpeg-broken-exif", picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    yield _saved("one-pixel", picture(size=(1, 1)), "PNG")
    yield _saved("one-column", picture(size=(1, 300)), "BMP")
    yield _saved("widest", Image.new("L", (20_000, 1)), "PNG")


def truncations(cuts: int = 24) -> Iterator[Case]:
    """Yield each basic image cut at many places; only the very end may be dispensable."""
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        data = _saved("whole", picture(), kind).data
        for cut in sorted({int(len(data) * step / cuts) for step in range(cuts)} | {len(data) - 1}):
            expected = r"^(Damaged \w+|No image|Empty): ." if cut < len(data) * 0.85 else EITHER
            yield Case(f"{kind.lower()}-cut-at-{cut}", data[:cut], expected)
    data = _saved("whole", picture(), "TIFF", compression="tiff_lzw").data
    for cut in range(8, len(data), len(data) // 8):
        yield Case(f"tiff-lzw-cut-at-{cut}", data[:cut], EITHER)


def flips(count: int = 40, seed: int = 0) -> Iterator[Case]:
    """Yield odd images with random bytes changed, most of them near the start."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    for case in odd_images():
        if len(case.data) > 20_000:
            continue
        for turn in range(max(1, count // 20)):
            data = bytearray(case.data)
            for _ in range(generator.choice((1, 3, 10))):
                place = int(len(data) * generator.random() ** 2)
                data[place] = generator.randrange(256)
            yield Case(f"{case.name}-flipped-{turn}", bytes(data), EITHER)


def lies() -> Iterator[Case]:
    """Yield headers that do not tell the truth about what follows."""
    png = _saved("png", picture(), "PNG").data
    yield Case("png-claims-zero-width", _png_size(png, 0, 20), "^Damaged PNG: .")
    yield Case("png-claims-more-rows", _png_size(png, 24, 500), "^Damaged PNG: its pixels end after")
    yield Case("png-bad-checksum", png[:30] + b"\0" + png[31:], "^Damaged PNG: .*checksum")
    yield Case("png-chunk-longer-than-file", png[:33] + b"\x7f\xff\xff\xffIDAT" + png[41:], EITHER)
    yield Case("png-without-pixels", png[:33] + _png_chunk(b"IEND", b""), "^Damaged PNG: .")
    bmp = bytearray(_saved("bmp", picture(), "BMP").data)
    for name, width, height in (("negative", -24, 20), ("top-down", 24, -20), ("taller", 24, 19_000)):
        struct.pack_into("<ii", bmp, 18, width, height)
        yield Case(f"bmp-{name}", bytes(bmp), OK if name == "top-down" else "^(Damaged BMP|Too large): .")
    gif = bytearray(_saved("gif", picture("P"), "GIF").data)
    frame = gif.index(b",\0\0\0\0")
    struct.pack_into("<HH", gif, frame + 5, 19_000, 3_000)
    yield Case("gif-frame-larger-than-screen", bytes(gif), "^Damaged GIF: .")
    yield Case("tiff-offset-beyond-the-end", b"II*\0\xff\xff\xff\x7f", "^Damaged TIFF: .")
    yield Case("bigtiff-offset-beyond-any-file", b"II+\0\x08\0\0\0" + b"\xff" * 8, "^Damaged TIFF: .")
    yield Case("tiff-that-points-at-itself", _looping_tiff(), OK)
    yield Case("tiff-negative-numbers", _saved_array(np.full((4, 4), -3, np.int32)), "^No brightness: .*-3")
    yield Case("tiff-nan", _saved_array(np.full((4, 4), np.nan, np.float32)), "^No brightness: .*nan")
    jpeg = bytearray(_saved("jpeg", picture(), "JPEG").data)
    size = jpeg.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", jpeg, size, 19_000, 3_000)
    yield Case("jpeg-claims-more-rows", bytes(jpeg), EITHER)
    struct.pack_into(">HH", jpeg, size, 0, 24)
    yield Case("jpeg-claims-no-rows", bytes(jpeg), "^Damaged JPEG: .")
    webp = bytearray(_saved("webp", picture(), "WEBP").data)
    struct.pack_into("<I", webp, 4, 2**31)
    yield Case("webp-claims-two-gigabytes", bytes(webp), "^Damaged WebP: .")
    yield from splices()


def splices() -> Iterator[Case]:
    """Yield one kind's start with another kind's rest, and two files in one."""
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
    saved = {kind: _saved("whole", picture(), kind).data for kind in kinds}
    for first in kinds:
        for second in kinds:
            if first != second:
                for start in (8, 40):
                    data = saved[first][:start] + saved[second]
                    yield Case(f"{first.lower()}-{start}-then-{second.lower()}", data, EITHER)
        yield Case(f"{first.lower()}-then-a-zip", saved[first] + b"PK\x03\x04" + bytes(60), EITHER)


def bombs() -> Iterator[Case]:
    """Yield small files that would take much memory or time."""
    png = _saved("png", picture("L"), "PNG").data
    yield Case("png-too-wide", _png_size(png, 20_001, 1), "^Too large: 20,001 x 1 pixels; .* 20,000")
    yield Case("png-too-many-pixels", _png_size(png, 8_001, 8_000), "^Too large: 8,001 x 8,000 .* 64,000,000")
    yield Case("png-two-billion-squared", _png_size(png, 2**31 - 1, 2**31 - 1), "^(Too large|Damaged PNG): .")
    yield Case("png-64-million-pixels", grey_png(8_000, 8_000), OK)
    clear = Image.new("RGBA", (8_000, 8_000), (9, 9, 9, 9))
    yield _saved("webp-64-million-pixels", clear, "WEBP", lossless=True, method=0)
    text = _png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000)))
    yield Case("png-text-bomb", png[:33] + text + png[33:], "^Damaged PNG: .*too large")
    profile = _png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(20_000_000)))
    yield Case("png-profile-bomb", png[:33] + profile + png[33:], EITHER)
    yield Case("bmp-too-wide", _bmp_header(30_000, 30_000), "^Too large: 30,000 x 30,000")
    yield Case("gif-too-wide", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3), "^(Too|Damaged)")
    canvas = (16_383 - 1).to_bytes(3, "little") * 2
    extended = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + canvas
    yield Case("webp-canvas", b"RIFF" + struct.pack("<I", len(extended)) + extended, "^(Too|Damaged)")
    yield Case("tiff-too-many-pixels", tiff(30_000, 30_000, b""), "^Too large: 30,000 x 30,000")
    yield Case("tiff-million-samples", tiff(4, 4, b"", samples=60_000), "^Damaged TIFF: .")
    for order, start in (("<", b"II*\0"), (">", b"MM\0*")):
        strips = struct.pack(f"{order}IHHHII", 8, 1, 273, 4, 15_000_000, 26)
        yield Case(f"tiff-strips-{order}", start + strips, "^Damaged TIFF: its tag 273 holds 15,000,")
    numbers = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x112, 3, 2_000_000, 26) + bytes(4_000_004)
    exif = png[:33] + _png_chunk(b"eXIf", numbers) + png[33:]
    yield Case("png-orientation-of-two-million-numbers", exif, OK)
    yield Case(
        "file-too-large", b"\xff\xd8\xff" + bytes(64_000_000), "^Too large: 64,000,003 bytes; .* 64,000,000"
    )


def strangers() -> Iterator[Case]:
    """Yield what is no image, or none of the six kinds."""
    yield Case("empty", b"", "^Empty: ")
    yield Case("zeros", bytes(100), "^No image: it begins like zeros")
    yield Case("text", b"path,label\ncat.jpg,cat\n", "^No image: it begins like text")
    yield Case("zip", b"PK\x03\x04" + bytes(60), "^No image: it begins like a ZIP archive .* not opened")
    yield Case("pdf", b"%PDF-1.7\n", "^No image: it begins like a PDF")
    yield Case("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^No image: it begins like an SVG")
    yield Case("html", b"<!DOCTYPE html><script>alert(1)</script>", "^No image: it begins like an HTML")
    yield Case("program", b"\x7fELF" + bytes(60), "^No image: it begins like a program")
    yield Case("random", random.Random(1).randbytes(500), "^No image: it begins like nothing known")  # noqa: S311
    yield Case("heif", b"\0\0\0\x18ftypheic" + bytes(16), r"^No image: .*HEIF.*\(heic\)")
    Image.init()
    for kind in sorted(set(Image.SAVE) - {"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO"}):
        yield from _other(kind)
    for kind in sorted(set(Image.OPEN) - set(Image.SAVE)):
        start = _STARTS.get(kind, kind.encode())
        yield Case(f"only-read-{kind.lower()}", start + bytes(600), "^No image: ")
    yield _saved("mpo", picture(), "MPO", save_all=True, append_images=[picture()])


def heavy() -> Iterator[Case]:
    """Yield images that take as much memory or time as an image may, and some that try to take more."""
    side = 8_000
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "YCbCr", "I", "F", "I;16"):
        image = Image.new(mode, (side, side))
        yield _saved(f"tiff-{mode}-64-million", image, "TIFF", compression="tiff_adobe_deflate")
    turned = {"exif": _exif(6)}
    for mode in ("L", "RGB", "CMYK"):
        yield _saved(f"jpeg-{mode}-64-million-turned", Image.new(mode, (side, side)), "JPEG", **turned)
    rgba = Image.new("RGBA", (side, side), (9, 9, 9, 9))
    yield _saved("png-64-million-turned", rgba, "PNG", compress_level=1, **turned)
    yield _saved("webp-64-million-turned", rgba, "WEBP", lossless=True, method=0, **turned)
    yield _saved("gif-64-million", Image.new("P", (side, side)), "GIF")
    slow = "^ok$|^Too (slow|large): ."
    two = [Image.new("RGB", (side, side), "red")]
    animation = _saved("webp", Image.new("RGB", (side, side)), "WEBP", save_all=True, append_images=two)
    yield Case("webp-animated-64-million", animation.data, slow)
    scans = _saved("jpeg", Image.new("RGB", (side, side)), "JPEG", progressive=True).data
    last = scans[scans.rindex(b"\xff\xda") : -2]
    yield Case("jpeg-500-scans", scans[:-2] + last * 500 + scans[-2:], slow)
    jpeg, png = _saved("jpeg", picture(), "JPEG").data, _saved("png", picture(), "PNG").data
    yield Case("jpeg-60-million-fill-bytes", jpeg[:2] + b"\xff" * 60_000_000 + jpeg[2:], slow)
    segment = b"\xff\xe1\0\x08Exif\0\0"
    yield Case("jpeg-3-million-segments", jpeg[:2] + segment * 3_000_000 + jpeg[2:], slow)
    for name in (b"IDAT", b"abCd", b"tEXt"):
        chunks = _png_chunk(name, b"a\0b" if name == b"tEXt" else b"") * 3_000_000
        yield Case(f"png-3-million-{name.decode().lower()}", png[:33] + chunks + png[33:], slow)
    gif = _saved("gif", picture("P"), "GIF").data
    frame = gif.index(b",\0\0\0\0")
    yield Case("gif-10-million-comments", gif[:frame] + b"!\xfe\x01a\0" * 10_000_000 + gif[frame:], slow)
    yield Case("gif-60-million-junk-bytes", gif[:frame] + b"\1" * 60_000_000 + gif[frame:], slow)
    one, each = struct.pack("<HHII", 278, 4, 1, side), struct.pack("<HHII", 278, 4, 1, 1)
    strips = tiff(side, side, bytes(60_000_000)).replace(one, each)
    yield Case("tiff-one-row-per-strip", strips, EITHER)


def files() -> Iterator[FileCase]:
    """Yield what a folder can hold instead of a plain file."""
    yield FileCase("fifo.png", os.mkfifo, "^Not a file: .*named pipe")
    yield FileCase("device.png", lambda path: path.symlink_to("/dev/zero"), "^(Not a file|Link leads out): .")
    yield FileCase("nowhere.png", lambda path: path.symlink_to("missing.png"), "^Not a file: .")
    yield FileCase("loop.png", lambda path: path.symlink_to(path.name), "^Not a file: .")
    yield FileCase("outside.png", lambda path: path.symlink_to("/etc/passwd"), "^Link leads out: .")
    yield FileCase("empty.png", lambda path: path.touch(), "^Empty: ")
    yield FileCase("sparse.png", _sparse, "^Too large: 5,000,000,000 bytes")


def tiff(width: int, height: int, pixels: bytes, samples: int = 1, bits: int = 8) -> bytes:
    """Return an uncompressed little-endian grey TIFF with one strip, whatever its pixels."""
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8 + 2 + 9 * 12 + 4),
        (277, 3, samples),
        (278, 4, height),
        (279, 4, len(pixels)),
    ]
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHII", tag, kind, 1, value)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + pixels


def grey_png(width: int, height: int) -> bytes:
    """Return a black PNG of any size, without holding its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    return _png(header, rows)


def sixteen_bit_png(kind: int, channels: int, key: bytes = b"") -> bytes:
    """Return a PNG of 16 bits per channel, a ramp from 0 to 65,535; kind is PNG's colour type."""
    ramp = np.linspace(0, 65_535, 24).round().astype(">u2")[None, :, None]
    rows = np.broadcast_to(ramp, (20, 24, channels))
    packed = b"".join(b"\0" + row.tobytes() for row in rows)
    extra = _png_chunk(b"tRNS", key) if key else b""
    return _png(struct.pack(">IIBBBBB", 24, 20, 16, kind, 0, 0, 0), zlib.compress(packed), extra)


def _png(header: bytes, packed: bytes, extra: bytes = b"") -> bytes:
    chunks = _png_chunk(b"IHDR", header) + extra + _png_chunk(b"IDAT", packed) + _png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_size(png: bytes, width: int, height: int) -> bytes:
    return png[:8] + _png_chunk(b"IHDR", struct.pack(">II", width, height) + png[24:29]) + png[33:]


def _bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _looping_tiff() -> bytes:
    data = bytearray(tiff(4, 4, bytes(16)))
    struct.pack_into("<I", data, 8 + 2 + 9 * 12, 8)
    return bytes(data)


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _saved(name: str, image: Image.Image, kind: str, **options: object) -> Case:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Case(name, buffer.getvalue(), OK)


def _saved_array(array: np.ndarray) -> bytes:
    return _saved("array", Image.fromarray(array), "TIFF").data


def _other(kind: str) -> Iterator[Case]:
    """Yield a picture of a kind that is not read here, in the first mode that the kind takes, if any."""
    for mode in ("RGB", "L", "1", "P", "F"):
        try:
            data = _saved(kind, picture(mode, size=(32, 32)), kind).data
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
            continue
        yield Case(f"other-{kind.lower()}", data, "^No image: ")
        return


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5_000_000_000)
