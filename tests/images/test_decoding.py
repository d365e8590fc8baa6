"""What a decode worker makes of one image."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from nnguide_core.archives import zips
from nnguide_core.errors import ImageError
from nnguide_core.images import image_id
from nnguide_core.images.decoding import Decoder
from nnguide_core.images.preprocessing import imagenet


@pytest.fixture
def png():
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_image_of_a_folder_or_a_zip_becomes_what_the_network_takes(tmp_path, png):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.png").write_bytes(png)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/one.png", png)
    (member,) = zips.inspect(tmp_path / "set.zip").members
    preprocess = imagenet(28)
    expected = preprocess.array(Image.open(io.BytesIO(png)))
    assert np.array_equal(Decoder(tmp_path, preprocess)(("a/one.png", image_id(png))), expected)
    decoder = pickle.loads(pickle.dumps(Decoder(tmp_path / "set.zip", preprocess)))  # noqa: S301 - made here
    assert np.array_equal(decoder((member.location, image_id(png))), expected)


def test_an_image_that_changed_since_it_was_scanned_is_refused(tmp_path, png):
    (tmp_path / "one.png").write_bytes(png + b"\0")
    with pytest.raises(ImageError, match="Changed: its content is not what it was"):
        Decoder(tmp_path, imagenet(28))(("one.png", image_id(png)))


def test_an_image_that_is_gone_or_became_a_pipe_is_refused(tmp_path, png):
    decoder = Decoder(tmp_path, imagenet(28))
    with pytest.raises(ImageError, match="nothing is there"):
        decoder(("one.png", image_id(png)))
    os.mkfifo(tmp_path / "one.png")
    with pytest.raises(ImageError, match="named pipe"):
        decoder(("one.png", image_id(png)))


def test_bytes_that_are_no_image_any_more_are_refused(tmp_path):
    (tmp_path / "one.png").write_bytes(b"text")
    with pytest.raises(ImageError):
        Decoder(tmp_path, imagenet(28))(("one.png", image_id(b"text")))
