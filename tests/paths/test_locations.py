import os

from hypothesis import given
from hypothesis import strategies as st

from nnguide_core.paths.locations import location_of, path_at


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw and not raw.startswith(b"/")))
def test_a_location_leads_back_to_its_path_and_is_always_text(raw):
    path = os.fsdecode(raw)
    location = location_of(path)
    location.encode("utf-8")
    assert path_at(location) == path
