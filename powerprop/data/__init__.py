"""Data sets as arrays, and batches of them as pure functions of a key."""

from powerprop.data.augment import AUGMENTATIONS
from powerprop.data.augment import crop_flip
from powerprop.data.batches import batch_indices
from powerprop.data.batches import normalise
from powerprop.data.datasets import load
from powerprop.data.datasets import names
from powerprop.data.types import DataError
from powerprop.data.types import Dataset
from powerprop.data.types import Split

__all__ = (
  'AUGMENTATIONS',
  'DataError',
  'Dataset',
  'Split',
  'batch_indices',
  'crop_flip',
  'load',
  'names',
  'normalise',
)
