"""One input pipeline for every framework: the same batches, byte by byte, for a seed and a step.

    source = open_split("fashion-mnist", "train")
    how = Augmentation(pad_crop=2, flip=True)
    pipeline = Pipeline(source, batch=128, seed=0, augmentation=how, training=True)
    for batch in pipeline:  # batch.images float32 NHWC, batch.labels int64

Importing this takes NumPy alone; Pillow is imported where it is used.
"""

from shared.datasets.catalogue import DATASETS, Dataset
from shared.datasets.opening import open_split
from shared.datasets.pipeline import Batch, Pipeline, default_workers
from shared.datasets.places import find_dataset
from shared.datasets.sources import ArraySource, FolderSource, ImageSource
from shared.training.augmentation import Augmentation

__all__ = [
    "DATASETS",
    "ArraySource",
    "Augmentation",
    "Batch",
    "Dataset",
    "FolderSource",
    "ImageSource",
    "Pipeline",
    "default_workers",
    "find_dataset",
    "open_split",
]
