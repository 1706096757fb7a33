"""Core types of the data: a split, a data set, and what can go wrong."""

from typing import NamedTuple

import numpy as np


class DataError(ValueError):
  """A data set is unknown, missing or damaged; one sentence with the remedy."""


class Split(NamedTuple):
  """Labelled pictures on the host.

  Attributes:
    image: uint8 [N, H, W, C].
    label: int32 [N], in [0, num_classes).
  """

  image: np.ndarray
  label: np.ndarray


class Dataset(NamedTuple):
  """Three disjoint splits of one data set.

  Attributes:
    name: what `load` was given.
    train: the examples to train on.
    validation: held out of what is published as the training set.
    test: the published test set.
    num_classes: number of labels.
    scale: multiply uint8 pixels by this to get values in [0, 1].
  """

  name: str
  train: Split
  validation: Split
  test: Split
  num_classes: int
  scale: float
