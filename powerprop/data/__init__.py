"""Data sets as arrays, sequences of tasks, batches as functions of a key."""

from powerprop.data.augment import AUGMENTATIONS
from powerprop.data.augment import crop_flip
from powerprop.data.batches import batch_indices
from powerprop.data.batches import normalise
from powerprop.data.datasets import load
from powerprop.data.datasets import names
from powerprop.data.sequences import examples
from powerprop.data.sequences import SCENARIOS
from powerprop.data.sequences import Sequence
from powerprop.data.sequences import SEQUENCES
from powerprop.data.sequences import Source
from powerprop.data.sequences import SPLITS
from powerprop.data.sequences import visible_outputs
from powerprop.data.types import DataError
from powerprop.data.types import Dataset
from powerprop.data.types import Split

__all__ = (
  'AUGMENTATIONS',
  'DataError',
  'Dataset',
  'SCENARIOS',
  'SEQUENCES',
  'SPLITS',
  'Sequence',
  'Source',
  'Split',
  'batch_indices',
  'crop_flip',
  'examples',
  'load',
  'names',
  'normalise',
  'visible_outputs',
)
