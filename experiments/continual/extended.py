"""Settings of experiments that learn sequences in a way of their own."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import ml_collections

from experiments.continual import settings as continual_settings
from experiments.continual.settings import ContinualSettings
from experiments.engine import named
from experiments.engine import validation
from experiments.engine.settings import Settings


class Extended(NamedTuple):
  """Which fields a config of such an experiment has.

  Attributes:
    kind: a NamedTuple of `training`, which are `ContinualSettings`, and its own
      fields.
    unused: fields of `Settings` that mean nothing there.
    taken: those of `ContinualSettings` that mean something.
    fixed: what stands in for the others.
    example: a config to point to.
  """

  kind: Any
  unused: Collection[str]
  taken: Collection[str]
  fixed: Mapping[str, Any]
  example: str

  @property
  def own(self) -> tuple[str, ...]:
    """Its own fields."""
    return self.kind._fields[1:]

  @property
  def shared(self) -> tuple[str, ...]:
    """Fields of the other settings that a config has."""
    return (*(n for n in Settings._fields if n not in self.unused), *self.taken)


def check(config: ml_collections.ConfigDict, it: Extended) -> Any:
  """Checks the fields that such a config shares with others.

  Args:
    config: as read from a config file and overridden on the command line.
    it: which fields it has.

  Returns:
    An `it.kind`; its own fields are as they were given.

  Raises:
    ConfigError: naming the first field that is missing, unknown or, of those
      shared, out of range.
  """
  given = named.by_short_names(config.to_dict())
  optional = {
    **it.kind._field_defaults,
    **ContinualSettings._field_defaults,
    **Settings._field_defaults,
  }
  validation.check_names(given, [*it.own, *it.shared], optional, it.example)
  rest = {k: v for k, v in given.items() if k not in it.own}
  training = continual_settings.check(
    ml_collections.ConfigDict({**rest, **it.fixed})
  )
  return it.kind(training, **{k: v for k, v in given.items() if k in it.own})


def resolved(given: Mapping[str, Any], it: Extended) -> dict[str, Any]:
  """A config with all defaults; see `settings.resolved`."""
  own = {**it.kind._field_defaults}
  own |= {k: v for k, v in given.items() if k in it.own}
  rest = {k: v for k, v in given.items() if k not in own}
  shared = continual_settings.resolved({**rest, **it.fixed})
  return {k: v for k, v in shared.items() if k in it.shared} | own
