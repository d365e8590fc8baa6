"""Some thousand inputs that a coverage-guided fuzzer makes; make hardening tries many more."""

import importlib.util

import pytest

from hardening import fuzz
from hardening.fuzz import TARGETS


@pytest.mark.parametrize(("target", "inputs"), [("images", 3000), ("zips", 3000), ("features", 1500)])
def test_no_input_that_the_fuzzer_makes_crashes_or_gives_an_unnamed_error(tmp_path, target, inputs):
    assert fuzz.fuzz(target, inputs, tmp_path) == (inputs, "")


def test_every_target_starts_from_inputs_that_are_read():
    for run, seeds in TARGETS.values():
        assert seeds()
        for data in seeds():
            run(data)


def test_without_the_fuzzer_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match="atheris is not installed"):
        fuzz.fuzz("zips", 1, tmp_path)
