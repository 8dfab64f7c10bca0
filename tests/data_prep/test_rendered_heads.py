"""Rendered heads: prepared once, read back as they are generated, with Beam or without."""

import dataclasses

import numpy as np
import pytest

from data_prep.rendered_heads import HeadsConfig, prepare
from jaxcv.data.pipelines import load_factor_batches
from jaxcv.data.synthetic import head

CONFIG = HeadsConfig(train=(2, 1, 1, 2), test=(1, 0, 0, 1), batch=3, side=16, ranges=(1, 0.6, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    prepare(folder, CONFIG)
    return folder


def test_what_is_read_is_what_is_generated(folder):
    builder = prepare(folder, CONFIG)
    ranges = dict(zip(head.RANGES, CONFIG.ranges, strict=True))
    for split, seed in (("train", 0), ("test", 1)):
        batches = load_factor_batches(builder, split=split)
        counts = dict(zip(head.NAMES, getattr(CONFIG, split), strict=True))
        want = head.generate_head_batches(seed, counts, batch=3, side=16, ranges=ranges)
        for one, other in zip(batches, want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_nothing_is_rendered_twice_and_another_config_is_another_set(folder, monkeypatch):
    from data_prep.rendered_heads import builder as module

    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return head.head_batch(*args, **kwargs)

    monkeypatch.setattr(module, "head_batch", counted)
    prepare(folder, CONFIG)
    assert not calls
    other = dataclasses.replace(CONFIG, side=20, train=(1, 0, 0, 0))
    assert load_factor_batches(prepare(folder, other)).images.shape == (1, 3, 20, 20)
    assert len(calls) == 3


@pytest.mark.slow
def test_beam_renders_the_same(folder, tmp_path):
    pytest.importorskip("apache_beam")
    plain = load_factor_batches(prepare(folder, CONFIG))
    beam = load_factor_batches(prepare(tmp_path, dataclasses.replace(CONFIG, beam=True)))
    order = lambda batches: np.lexsort((batches.factors[:, 0, 2], batches.factors[:, 0, 3]))
    for one, other in zip(plain[:3], beam[:3], strict=True):
        np.testing.assert_array_equal(one[order(plain)], other[order(beam)])


def test_bad_input(folder):
    with pytest.raises(ValueError, match="`train`: expected counts of 0 or more"):
        HeadsConfig(train=(1, -1, 0, 0))
    with pytest.raises(ValueError, match="`train`: expected counts"):
        HeadsConfig(test=(0, 0, 0, 0))
    example = {"images": np.zeros((3, 8, 8), np.uint8), "kind": 0}
    with pytest.raises(ValueError, match=r"source\[0\]`: expected \['factors'\]"):
        load_factor_batches([example])
    with pytest.raises(ValueError, match="expected two factors or four, got 3"):
        load_factor_batches([example | {"factors": np.zeros((3, 3))}])
    with pytest.raises(ValueError, match="`source`: expected a batch or more"):
        load_factor_batches([])
