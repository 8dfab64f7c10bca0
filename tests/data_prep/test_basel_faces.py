"""Renderings of a face model: folders in the layout of the released code, with their factors."""

import numpy as np
import pytest
from PIL import Image

from data_prep.basel_faces import FacesConfig, prepare
from data_prep.basel_faces.builder import FOLDERS
from jaxcv.data.pipelines import load_factor_batches, load_factor_images

CONFIG = FacesConfig(batch=3, side=8, test_share=0.3)


def write_faces(folder, count=4, batch=3, side=16):
    """Images whose grey is 40 kind + 10 number + place."""
    for kind, name in enumerate(FOLDERS):
        for n in range(count):
            face = folder / name / f"face_{n + 1}"
            face.mkdir(parents=True)
            lines = ["file,azimuth,elevation,light,identity"]
            for i in range(batch):
                grey = 40 * kind + 10 * n + i
                mode = "L" if i else "RGBA"
                Image.new(mode, (side, side), grey if i else (grey,) * 3 + (255,)).save(
                    face / f"{i}.png"
                )
                factors = [0.1, 0.2, 0.3, n]
                factors[kind] += 0.5 * i + (100 * n if kind == 3 else 0)
                lines.append(",".join([f"{i}.png", *(str(x) for x in factors)]))
            (face / "factors.csv").write_text("\n".join(lines))


def test_a_folder_is_a_batch(tmp_path):
    write_faces(tmp_path / "faces")
    builder = prepare(tmp_path / "faces", tmp_path / "cache", CONFIG)
    train, test = (load_factor_batches(builder, split=split) for split in ("train", "test"))
    assert train.images.shape == (8, 3, 8, 8)
    assert train.kind.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    want = 40 * train.kind[:, None] + 10 * np.tile([0, 1], 4)[:, None] + np.arange(3)
    np.testing.assert_array_equal(train.images[..., 0, 0], want)
    np.testing.assert_allclose(train.factors[0, :, 0], [0.1, 0.6, 1.1])
    assert (test.images[..., 4, 4] % 40 >= 20).all()  # the last folders
    images = load_factor_images(builder)
    np.testing.assert_array_equal(
        np.sort(images.images[:, 0, 0]), np.sort(test.images[..., 0, 0].ravel())
    )


def test_labels_are_needed_for_the_test_only(tmp_path):
    faces = tmp_path / "faces"
    write_faces(faces)
    labelled = prepare(faces, tmp_path / "cache", CONFIG)
    want = {split: load_factor_batches(labelled, split=split) for split in ("train", "test")}
    assert want["train"].labelled.all()
    for name in FOLDERS:
        for n in (1, 2):  # of the training
            (faces / name / f"face_{n}" / "factors.csv").unlink()
    builder = prepare(faces, tmp_path / "cache", CONFIG)
    train, test = (load_factor_batches(builder, split=split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.images, want["train"].images)
    np.testing.assert_array_equal(train.kind, want["train"].kind)
    assert not train.labelled.any()
    assert np.isnan(train.factors).all()
    np.testing.assert_array_equal(test.factors, want["test"].factors)
    assert np.isfinite(load_factor_images(builder).factors).all()
    (faces / FOLDERS[0] / "face_1" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"face_1`: expected 3 images or more, got 2"):
        prepare(faces, tmp_path / "cache", CONFIG)


def test_missing_and_broken_files(tmp_path):
    faces = tmp_path / "faces"
    run = lambda: prepare(faces, tmp_path / "cache", CONFIG)
    with pytest.raises(ValueError, match=r"expected folders face_<n> in AZ_VARIED, .* no folder"):
        run()
    write_faces(faces)
    table = faces / "EL_VARIED" / "face_2" / "factors.csv"
    plain = table.read_text()
    for text, message in (
        (plain.replace("0.7", "nan"), r"factors.csv:3.*not finite"),
        (plain.replace("light", "sun"), r"factors.csv:2.*expected file,azimuth"),
        ("\n".join(plain.split("\n")[:3]), "expected 3 images or more, got 2"),
        (plain.replace("0.3", "0.9", 1), "expected only 'elevation' to change"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_factor_batches(run())
    table.write_text(plain)
    table = faces / "EL_VARIED" / "face_4" / "factors.csv"  # of the test
    plain = table.read_text()
    table.unlink()
    with pytest.raises(ValueError, match=r"factors\.csv`: expected a file, got no such file"):
        run()
    table.write_text(plain)
    image = faces / "SHAPE_VARIED" / "face_1" / "1.png"
    Image.new("L", (16, 12)).save(image)
    with pytest.raises(ValueError, match=r"1.png`: expected a square image, got \(16, 12\)"):
        run()
    image.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1.png`: expected a picture that can be read"):
        run()
    with pytest.raises(ValueError, match="`batch`: expected two images or more"):
        FacesConfig(batch=1)
