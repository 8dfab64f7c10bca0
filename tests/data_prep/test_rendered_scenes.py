"""Rendered scenes: prepared once, read back as they are generated, with Beam or without."""

import dataclasses

import numpy as np
import pytest

from data_prep.rendered_scenes import ScenesConfig, prepare
from jaxcv.data.pipelines import load_factor_batches, load_factor_images
from jaxcv.data.synthetic.chair import Chairs
from jaxcv.data.synthetic.head import Heads
from jaxcv.data.synthetic.scenes import generate_batches

HEADS = ScenesConfig(
    scenes=Heads(elevation=0.6, side=16), train=(2, 1, 1, 2), test=(1, 0, 0, 1), batch=3,
    factor_batches=2, identities=2,
)  # fmt: skip
CHAIRS = ScenesConfig(
    scenes=Chairs(models=5, side=16), train=(2, 1), test=(1, 1), batch=3, factor_batches=2,
    identities=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    prepare(folder, HEADS)
    return folder


@pytest.mark.parametrize("config", [HEADS, CHAIRS])
def test_what_is_read_is_what_is_generated(folder, config):
    builder, scenes = prepare(folder, config), config.scenes
    names = (*scenes.names[: scenes.entries], "identity")
    for split, seed in (("train", 0), ("test", 1)):
        batches = load_factor_batches(builder, split=split)
        counts = dict(zip(names, getattr(config, split), strict=True))
        want = generate_batches(scenes, seed, counts, size=3)
        for one, other in zip(batches, want, strict=True):
            np.testing.assert_array_equal(one, other)
    images, want = load_factor_images(builder), scenes.images(2, 6, 2)
    for one, other in zip(images, want, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_test_may_have_other_scenes(folder):
    wide = Heads(elevation=0.6, light=3.0, frame=1.6, side=16)
    builder = prepare(folder, dataclasses.replace(HEADS, test_scenes=wide))
    narrow = load_factor_batches(prepare(folder, HEADS))
    np.testing.assert_array_equal(load_factor_batches(builder).images, narrow.images)
    want = generate_batches(wide, 1, {"azimuth": 1, "identity": 1}, size=3)
    got = load_factor_batches(builder, split="test")
    np.testing.assert_array_equal(got.images, want.images)
    np.testing.assert_array_equal(load_factor_images(builder).factors, wide.images(2, 6, 2).factors)
    with pytest.raises(ValueError, match="`test_scenes`: expected images of 16 pixels"):
        dataclasses.replace(HEADS, test_scenes=Heads(side=20))


def test_nothing_is_rendered_twice_and_another_config_is_another_set(folder, monkeypatch):
    calls = []
    plain = Heads.batch

    def counted(*args):
        calls.append(args)
        return plain(*args)

    monkeypatch.setattr(Heads, "batch", counted)
    prepare(folder, HEADS)
    assert not calls
    other = dataclasses.replace(HEADS, scenes=Heads(side=20), train=(1, 0, 0, 0))
    assert load_factor_batches(prepare(folder, other)).images.shape == (1, 3, 20, 20)
    assert len(calls) == 3


@pytest.mark.slow
def test_beam_renders_the_same(folder, tmp_path):
    pytest.importorskip("apache_beam")
    plain = load_factor_batches(prepare(folder, HEADS))
    beam = load_factor_batches(prepare(tmp_path, dataclasses.replace(HEADS, beam=True)))
    order = lambda batches: np.lexsort((batches.factors[:, 0, 2], batches.factors[:, 0, 3]))
    for one, other in zip(plain[:3], beam[:3], strict=True):
        np.testing.assert_array_equal(one[order(plain)], other[order(beam)])


def test_bad_input():
    with pytest.raises(ValueError, match="`train`: expected 4 counts of 0 or more"):
        ScenesConfig(train=(1, -1, 0, 0))
    with pytest.raises(ValueError, match="`train`: expected 2 counts"):
        ScenesConfig(scenes=Chairs())
    with pytest.raises(ValueError, match="`test`: expected 4 counts"):
        ScenesConfig(test=(0, 0, 0, 0))
    example = {"images": np.zeros((3, 8, 8), np.uint8), "kind": 0}
    with pytest.raises(ValueError, match=r"source\[0\]`: expected \['factors'\]"):
        load_factor_batches([example])
    with pytest.raises(ValueError, match="expected three factors or four, got 2"):
        load_factor_batches([example | {"factors": np.zeros((3, 2))}])
    with pytest.raises(ValueError, match="`source`: expected an example or more"):
        load_factor_batches([])
