"""Data sets as arrays, sequences of tasks, batches as functions of a key."""

from experiments.data.arrays import joined
from experiments.data.arrays import of_arrays
from experiments.data.augment import AUGMENTATIONS
from experiments.data.augment import crop_flip
from experiments.data.datasets import is_path
from experiments.data.datasets import load
from experiments.data.datasets import names
from experiments.data.datasets import stream
from experiments.data.datasets import streams
from experiments.data.datasets import takes_options
from experiments.data.pixels import normalise
from experiments.data.sequences import all_take_part
from experiments.data.sequences import checked_sequence
from experiments.data.sequences import examples
from experiments.data.sequences import SCENARIOS
from experiments.data.sequences import Sequence
from experiments.data.sequences import SEQUENCES
from experiments.data.sequences import Source
from experiments.data.sequences import SPLITS
from experiments.data.sequences import visible_outputs
from experiments.data.types import checked
from experiments.data.types import DataError
from experiments.data.types import Dataset
from experiments.data.types import Examples
from experiments.data.types import Split
from experiments.data.types import Streamed

__all__ = (
  'AUGMENTATIONS',
  'DataError',
  'Dataset',
  'Examples',
  'SCENARIOS',
  'SEQUENCES',
  'SPLITS',
  'Sequence',
  'Source',
  'Split',
  'Streamed',
  'checked',
  'all_take_part',
  'checked_sequence',
  'crop_flip',
  'examples',
  'is_path',
  'joined',
  'load',
  'names',
  'normalise',
  'of_arrays',
  'stream',
  'streams',
  'takes_options',
  'visible_outputs',
)
