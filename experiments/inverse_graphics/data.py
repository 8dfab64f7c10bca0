"""The images of inverse graphics: generated heads and chairs, or the user's renderings."""

import logging
import math
from typing import Any, NamedTuple

from data_prep._prepare import cache_folder
from experiments import runner
from jaxcv.data.graphics import FactorBatches, FactorImages
from jaxcv.models.inverse_graphics import CPU_SIZE, PAPER_SIZE

__all__ = ["SIZES", "SOURCES", "Data", "load"]

_logger = logging.getLogger(__name__)

SIZES = {"cpu": CPU_SIZE, "paper": PAPER_SIZE}
SOURCES = ("faces", "chairs", "basel", "public_chairs")


class Data(NamedTuple):
    """Batches for training and test, and test images in which all factors vary.

    Test batches and images show heads or chairs that are not in the training.
    """

    train: FactorBatches
    test: FactorBatches
    images: FactorImages


def load(config: Any) -> Data:
    """Batches and images of --data, prepared on first use.

    Raises:
        DataError: a wrong file or flag, which the message names.
    """
    from jaxcv.data.pipelines import load_factor_batches, load_factor_images

    if config.data in ("basel", "public_chairs") and not config.data_dir:
        expected = f"expected the folder of --data={config.data}"
        raise runner.data_error("data_dir", expected, "none", "data_prep/README.md has its layout.")
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

    side = SIZES[config.size].image
    if config.data == "faces":
        scenes: Any = Heads(elevation=config.elevation, side=side)
    else:
        scenes = Chairs(models=config.models, side=side)
    what = ScenesConfig(scenes=scenes, **_counts(config, scenes.entries + 1))
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
