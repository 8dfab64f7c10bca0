"""The images of inverse graphics: generated heads and chairs, or the user's renderings."""

import dataclasses
import logging
import math
from typing import Any, NamedTuple

import numpy as np

from data_prep._prepare import cache_folder
from experiments import runner
from experiments.inverse_graphics.config import SIZES
from jaxcv.data.graphics import FactorBatches, FactorImages

__all__ = ["Data", "load"]

_logger = logging.getLogger(__name__)


class Data(NamedTuple):
    """Batches for training and test, and test images in which all factors vary.

    Test batches and images show heads or chairs that are not in the training. Batches of the
    training may have no factors.
    """

    train: FactorBatches
    test: FactorBatches
    images: FactorImages

    def labelled(self, count: int) -> FactorImages:
        """Images of the first `count` training batches with factors; without any, `images`."""
        rows = np.flatnonzero(self.train.labelled)[:count]
        if not len(rows):
            return self.images
        some = self.train.take(rows)
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        return FactorImages(flat(some.images), flat(some.factors), some.names)

    def largest(self) -> np.ndarray:
        """(F,) largest absolute factor of the training, or of `images` if it has no factors."""
        factors = self.train.factors[self.train.labelled]
        factors = factors if len(factors) else self.images.factors
        return np.abs(factors).reshape(-1, factors.shape[-1]).max(axis=0)


def load(config: Any) -> Data:
    """Batches and images of --data, prepared on first use.

    Raises:
        DataError: a wrong file or flag, which the message names.
    """
    from jaxcv.data.pipelines import load_factor_batches, load_factor_images

    if config.data in ("basel", "public_chairs") and not config.data_dir:
        expected = f"expected the folder of --data={config.data}"
        raise runner.data_error("data_dir", expected, "none", "data_prep/README.md has its layout.")
    for name in ("test_azimuth", "test_light"):
        value = getattr(config, name)
        if value is not None and config.data != "faces":
            raise runner.data_error(name, "goes with --data=faces", value, "Leave it out.")
    _logger.info("images of %s: prepared at the first run, which takes minutes", config.data)
    with runner.data_errors():
        builder = _BUILDERS[config.data](config)
        train, test = (load_factor_batches(builder, split=split) for split in ("train", "test"))
        return Data(train, test, load_factor_images(builder))


def _counts(config: Any, kinds: int) -> dict[str, Any]:
    return {
        "train": (config.num_train,) * kinds,
        "test": (config.num_test,) * kinds,
        "batch": config.batch_size,
        "factor_batches": math.ceil(config.num_images / config.batch_size),
        "identities": config.identities,
    }


def _rendered(config: Any) -> Any:
    from data_prep.rendered_scenes import ScenesConfig, prepare
    from jaxcv.data.synthetic.chair import Chairs
    from jaxcv.data.synthetic.head import Heads

    side, test = SIZES[config.size].image, None
    if config.data == "faces":
        scenes: Any = Heads(config.azimuth, config.elevation, config.light, side, config.frame)
        wider = {"azimuth": config.test_azimuth, "light": config.test_light}
        wider = {name: value for name, value in wider.items() if value is not None}
        test = dataclasses.replace(scenes, **wider) if wider else None
    else:
        scenes = Chairs(models=config.models, side=side)
    what = ScenesConfig(scenes=scenes, test_scenes=test, **_counts(config, scenes.entries + 1))
    return prepare(cache_folder(config.cache_dir, "rendered_scenes"), what)


def _public_chairs(config: Any) -> Any:
    from data_prep.public_chairs import ChairsConfig, prepare

    what = ChairsConfig(side=SIZES[config.size].image, **_counts(config, 2))
    return prepare(config.data_dir, cache_folder(config.cache_dir, "public_chairs"), what)


def _basel(config: Any) -> Any:
    from data_prep.basel_faces import FacesConfig, prepare

    what = FacesConfig(side=SIZES[config.size].image, batch=config.batch_size)
    return prepare(config.data_dir, cache_folder(config.cache_dir, "basel_faces"), what)


_BUILDERS = {
    "faces": _rendered, "chairs": _rendered, "basel": _basel, "public_chairs": _public_chairs
}  # fmt: skip
