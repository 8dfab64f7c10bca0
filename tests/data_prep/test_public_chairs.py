"""The public chairs: files in the official layout, views missing, models of the test apart."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from data_prep.public_chairs import ChairsConfig, prepare
from jaxcv.data.pipelines import load_factor_batches, load_factor_images

CONFIG = ChairsConfig(
    train=(3, 2), test=(2, 1), test_share=0.4, batch=4, side=8, factor_batches=2, identities=3
)


def write_chairs(folder, models=10, side=24, azimuths=31):
    """Each image tells its model by its brightness, its view by the place of a dark square."""
    for k in range(models):
        renders = folder / f"{k:032x}" / "renders"
        renders.mkdir(parents=True)
        number = 0
        for elevation in (20, 30):
            for azimuth in np.round(np.arange(azimuths) * 360 / azimuths).astype(int):
                pixels = np.full((side, side, 3), 100 + 15 * k, np.uint8)
                pixels[: 3 + elevation // 10, : 1 + azimuth // 20] = 0
                name = f"image_{number:03d}_p{elevation:03d}_t{azimuth:03d}_r096.png"
                Image.fromarray(pixels).save(renders / name)
                number += 1


@pytest.fixture(scope="module")
def chairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered_chairs")
    write_chairs(folder)
    (folder / "all_chair_names.mat").write_bytes(b"not read")
    return folder


def test_batches_hold_what_they_say(chairs, tmp_path):
    builder = prepare(chairs, tmp_path, CONFIG)
    shown = {}
    for split, counts in (("train", (3, 2)), ("test", (2, 1))):
        batches = load_factor_batches(builder, split=split)
        assert [int((batches.kind == k).sum()) for k in (0, 2)] == list(counts)
        shown[split] = set(batches.factors[..., 2].ravel())
        for kind, images, factors in zip(batches.kind, *batches[::2][:2], strict=True):
            assert (np.ptp(factors, axis=0) > 0)[0] == (kind == 0)
            np.testing.assert_array_equal(images[:, 7, 7], 100 + 15 * factors[:, 2])
            dark = (images[:, 0] == 0).sum(axis=1)
            assert (np.diff(dark[np.argsort(factors[:, 0])]) >= 0).all()
        assert set(np.round(np.rad2deg(batches.factors[..., 1]).ravel())) <= {20, 30}
    assert not shown["train"] & shown["test"]
    images = load_factor_images(builder)
    assert images.images.shape == (8, 8, 8)
    assert len(set(images.factors[:, 2])) <= 3
    assert not set(images.factors[:, 2]) & shown["train"]


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r"expected folders <model>/renders, got no folder"):
        prepare(tmp_path / "none", tmp_path / "cache", CONFIG)
    write_chairs(tmp_path / "chairs", models=10)
    renders = tmp_path / "chairs" / f"{3:032x}" / "renders"
    broken = sorted(renders.iterdir())[5]
    whole = broken.read_bytes()
    for path in renders.iterdir():
        path.write_bytes(whole[:60])
    config = ChairsConfig(train=(40, 2), test=(40, 1), test_share=0.4, batch=4, side=8)
    with pytest.raises(ValueError, match=r"image_.*: expected a picture that can be read"):
        prepare(tmp_path / "chairs", tmp_path / "cache", config)
    broken.unlink()
    with pytest.raises(ValueError, match=r"expected 30 or 31 views at each of 2 elevations.*30"):
        prepare(tmp_path / "chairs", tmp_path / "cache", CONFIG)
    with pytest.raises(ValueError, match="`batch`: expected 2 to 31"):
        ChairsConfig(batch=32)


def test_sixty_views_are_read_and_all_models_have_as_many(tmp_path):
    write_chairs(tmp_path / "chairs", azimuths=30)
    builder = prepare(tmp_path / "chairs", tmp_path / "cache", CONFIG)
    batches = load_factor_batches(builder, split="train")
    turns = np.rad2deg(np.concatenate([batches.factors[..., 0].ravel(), [0]])) / 12
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-9)
    whole = dataclasses.replace(CONFIG, batch=31, train=(3, 0), test=(2, 0))
    with pytest.raises(ValueError, match="`batch`: expected 2 to 30 images, one per azimuth"):
        prepare(tmp_path / "chairs", tmp_path / "cache", whole)
    last = sorted((tmp_path / "chairs").iterdir())[-1]
    shutil.rmtree(last)
    write_chairs(tmp_path / "other", models=1)
    shutil.copytree(next((tmp_path / "other").iterdir()), last)
    with pytest.raises(ValueError, match=r"expected 30 azimuths, as many as the first .* got 31"):
        prepare(tmp_path / "chairs", tmp_path / "cache", CONFIG)
