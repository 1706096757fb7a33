"""One clear sentence for whatever is wrong with a field of a config."""

from collections.abc import Callable, Collection, Mapping, Sequence
import difflib
import inspect
from types import UnionType
import typing
from typing import Any

import numpy as np

LARGEST = 2**31 - 1  # steps and seeds are int32 on the device
LARGEST_FLOAT = float(np.finfo(np.float32).max)
_KINDS = {
  int: 'a whole number',
  float: 'a number',
  str: 'a name',
  bool: 'True or False',
  type(None): 'None',
}


class ConfigError(ValueError):
  """A config value is wrong; the message names it and the remedy."""


def known(kind: str, name: str, names: list[str]) -> None:
  """Raises ConfigError, with the nearest name, where there is no such name."""
  if name not in names:
    raise ConfigError(
      f'{kind} {name!r} is unknown{_hint(name, names)}; choose one of'
      f' {", ".join(sorted(names))}.'
    )


def _hint(name: Any, names: Sequence[str]) -> str:
  near = difflib.get_close_matches(str(name), names, n=1)
  return f' (did you mean {near[0]!r}?)' if near else ''


def numbers(name: str, values: Any) -> tuple[float, ...]:
  """A number or several, as a tuple of floats."""
  several = values if isinstance(values, tuple | list) else (values,)
  if not several:
    raise ConfigError(f'{name} is empty; give at least one number.')
  require(
    all(map(is_number, several)),
    name,
    repr(values),
    'a number or a tuple of numbers',
  )
  out = tuple(map(float, several))
  if len(set(out)) != len(out):
    raise ConfigError(f'{name} is {values} with a value twice; name each once.')
  return out


def names(name: str, value: Any, empty: bool = False) -> tuple[str, ...]:
  """A name or several, as a tuple without repetitions."""
  chosen = (value,) if isinstance(value, str) else value
  require(
    isinstance(chosen, tuple | list)
    and all(isinstance(x, str) for x in chosen)
    and (empty or bool(chosen)),
    name,
    repr(chosen),
    'a name or a tuple of names',
  )
  return tuple(dict.fromkeys(chosen))


def require(ok: bool, name: str, value: Any, must: str) -> None:
  """Raises ConfigError, naming the value and what it must be, unless ok."""
  if not ok:
    raise ConfigError(f'{name} is {value} but must be {must}.')


def is_number(x: Any) -> bool:
  """Whether x is a number that a float can be; True and False are none."""
  if isinstance(x, int) and not isinstance(x, bool):
    return abs(x) < 1e300
  return isinstance(x, float)


def check_names(
  given: Mapping[str, Any],
  fields: Sequence[str],
  optional: Collection[str],
  example: str,
) -> None:
  """Checks that a config has certain fields, and no others.

  Args:
    given: the config's fields.
    fields: all that it may have.
    optional: those of them that it may leave out.
    example: a config to point to.

  Raises:
    ConfigError: naming the field that is unknown or missing.
  """
  for name in given:
    if name not in fields:
      raise ConfigError(
        f'config field {name!r} is unknown{_hint(name, fields)}; --help lists'
        ' those that there are.'
      )
  for name in fields:
    if name not in given and name not in optional:
      raise ConfigError(
        f'the config has no field {name!r}; add it ({example} shows every'
        ' field).'
      )


def check_whole(s: Any, lows: Mapping[str, int]) -> None:
  """Checks that fields are whole numbers of at least so much, and int32."""
  for name, low in lows.items():
    value = getattr(s, name)
    whole = isinstance(value, int) and is_number(value)
    must = f'a whole number of at least {low}'
    require(whole and value >= low, name, value, must)
    require(value <= LARGEST, name, value, f'{must} and at most {LARGEST}')


def check_ranges(
  s: Any, rules: Mapping[str, tuple[str, Callable[[Any], bool]]]
) -> None:
  """Checks that fields are finite numbers of which a rule holds."""
  for name, (must, ok) in rules.items():
    value = getattr(s, name)
    require(is_number(value) and ok(value), name, repr(value), must)
    finite = abs(value) <= LARGEST_FLOAT
    require(finite, name, repr(value), f'{must}, finite in float32')


def no_nan(name: str, value: Any) -> None:
  """Raises ConfigError where a number in a dict or a tuple is NaN."""
  if isinstance(value, dict):
    for key, part in value.items():
      no_nan(f'{name}.{key}', part)
  elif isinstance(value, tuple | list):
    for part in value:
      no_nan(name, part)
  else:
    require(value == value, name, value, 'a number')


def check_options(
  path: str, method: str, fn: Callable[..., Any], given: Mapping[str, Any]
) -> None:
  """Checks names and types of a method's options; it checks their values.

  Args:
    path: where the config has them: method_kwargs.NAME.
    method: the method's name.
    fn: the method, whose first parameter is no option.
    given: the options.

  Raises:
    ConfigError: naming the option, its value and what it must be.
  """
  options = list(inspect.signature(fn).parameters)[1:]
  for name in given:
    if not options:
      raise ConfigError(
        f'option of {method} {name!r} is unknown: {path} is {given}, but'
        f' {method} has no options; remove it.'
      )
    known(f'option of {method}', name, options)
  check_types(path, fn, given)


def check_types(
  path: str, fn: Callable[..., Any], given: Mapping[str, Any]
) -> None:
  """Checks keyword arguments by a function's annotations.

  Numbers, names and what may be None are checked; of others, and of names that
  it does not have, only the function knows.

  Args:
    path: where the config has them.
    fn: the function.
    given: its keyword arguments.

  Raises:
    ConfigError: naming the first that is of another type, or no number of
      32 bits.
  """
  parameters = inspect.signature(fn).parameters
  for name, value in given.items():
    if name not in parameters:
      continue
    kind, default = parameters[name].annotation, parameters[name].default
    union = typing.get_origin(kind) in (typing.Union, UnionType)
    types = typing.get_args(kind) if union else (kind,)
    if not set(types) <= set(_KINDS):
      continue
    must = ' or '.join(_KINDS[t] for t in types)
    right = isinstance(value, (*types, int) if float in types else types)
    stray = isinstance(value, bool) and bool not in types
    where = f'{path}.{name}'
    require(right and not stray and value == value, where, repr(value), must)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and value != default:  # a default may be infinite
      most = LARGEST_FLOAT if float in types else LARGEST
      must += f' of at most {most:g}'
      require(abs(value) <= most, where, repr(value), must)


def with_defaults(fn: Callable[..., Any] | None, given: Any) -> Any:
  """Keyword arguments of a function, with its defaults where there are some.

  Args:
    fn: the function; None where there is none of that name.
    given: its keyword arguments; what is no dict comes back as it is.

  Returns:
    A dict; defaults that JSON does not have are left out. Infinite ones are
    None in JSON, and here again what they were.
  """
  if fn is None or not isinstance(given, dict):
    return given
  plain = bool | int | float | str | tuple | list | None
  defaults = {
    name: p.default
    for name, p in inspect.signature(fn).parameters.items()
    if p.default is not p.empty and isinstance(p.default, plain)
  }
  infinite = {n for n, d in defaults.items() if d in (np.inf, -np.inf)}
  lost = {n for n in infinite if n in given and given[n] is None}
  return defaults | {k: v for k, v in given.items() if k not in lost}


def attempt(name: str, value: Any, build: Callable[[], Any]) -> Any:
  """What `build` gives; ConfigError, naming the value, where it cannot."""
  try:
    return build()
  except ConfigError:
    raise
  except (ArithmeticError, AttributeError, TypeError, ValueError) as e:
    raise ConfigError(
      f'{name} is {value} but that does not fit ({why(e)}); change or remove'
      ' it.'
    ) from None


def why(e: BaseException) -> str:
  """What an exception says, in a line of at most 200 characters."""
  text = ' '.join(str(e).split()) or type(e).__name__
  return text if len(text) <= 200 else text[:199] + '…'
