"""Fields of a config from the command line, --config.FIELD=VALUE.

Not by ml_collections' own flags: they go by the type of the value that a file
happens to have, where "a number or several" may be a float in one file and a
tuple in the next, and know no field that a file leaves out.
"""

import ast
from collections.abc import Mapping
import contextlib
import re
from typing import Any

import ml_collections
from ml_collections import config_dict

from experiments.engine.config_files import CommandError
from experiments.engine.fields import Field
from experiments.engine.fields import nearest

_FLAG = re.compile(r'--?(no)?config\.([^=]*)(?:=(.*))?', re.DOTALL)
# Dicts by name, in which 'package.module:function' goes by what is behind the
# colon: a ConfigDict has no keys with dots.
_BY_NAME = ('transform_kwargs', 'method_kwargs', 'method_training', 'labels')
# What one would call a field of which a single value is given.
_ALSO = {
  'alpha': 'alphas',
  'density': 'densities',
  'distribution': 'distributions',
  'method': 'methods',
  'multiplier': 'training_multiplier',
  'sparsity': 'densities',
  'transform': 'transforms',
}
_YES, _NO = ('true', 't', '1', 'yes'), ('false', 'f', '0', 'no')


def split(
  arguments: list[str], fields: Mapping[str, Field]
) -> tuple[list[tuple[str, str]], list[str]]:
  """Takes the overrides out of a command line.

  Args:
    arguments: of the command line.
    fields: that a config may have.

  Returns:
    (path, text) of every override, and the other arguments.

  Raises:
    CommandError: if a value is missing.
  """
  found, others = [], []
  rest = list(arguments)
  while rest:
    argument = rest.pop(0)
    match = _FLAG.fullmatch(argument)
    if match is None:
      others.append(argument)
      continue
    no, given, text = match.groups()
    path = given
    if given not in fields and _ALSO.get(given) in fields:
      path = _ALSO[given]
    field = fields.get(path)
    if no or (text is None and field is not None and field.kind == 'bool'):
      text = 'false' if no else 'true'
    elif text is None:
      if not rest:
        raise CommandError(f'{argument} has no value: {argument}=VALUE.')
      text = rest.pop(0)
    if given == 'sparsity' and path != given:
      text = _densities(text)
    found.append((path, text))
  return found, others


def _densities(text: str) -> str:
  """What `densities` would be, of a sparsity or several."""
  values = _tuple(text)
  if not all(isinstance(x, int | float) for x in values):
    raise CommandError(
      f'sparsity is {text} but must be a number in [0, 1), or several.'
    )
  return repr(tuple(round(1 - x, 12) for x in values))


def apply(
  config: ml_collections.ConfigDict,
  given: list[tuple[str, str]],
  fields: Mapping[str, Field],
) -> None:
  """Sets fields of a config to what the command line says.

  Args:
    config: of a file; it is changed.
    given: of `split`. A field of several values that is given several times
      gets them all.
    fields: that a config may have. Those of dicts, such as optimizer_kwargs,
      are open: who uses them checks them.

  Raises:
    CommandError: if a field is unknown, or a text is no value for it.
  """
  seen: dict[str, Any] = {}
  with contextlib.suppress(config_dict.RequiredValueError):  # told below
    config.unlock()
  for path, text in given:
    top, dot, rest = path.partition('.')
    path = f'{top}{dot}{_short(top, rest)}'
    top, *inner = path.split('.')
    if top not in fields:
      raise CommandError(
        f'config field {top!r} is unknown{nearest(top, fields)}; --help lists'
        ' the fields.'
      )
    if inner:
      holder = _holder(config, path, fields[top])
      value = _like(holder.get(inner[-1]), text)
    else:
      holder, value = config, _of_kind(fields[top], text)
      if isinstance(value, dict):
        value = {_short(top, k): v for k, v in value.items()}
      if isinstance(value, tuple) and path in seen:
        value = seen[path] + value
      seen[path] = value
    try:
      with holder.ignore_type():
        holder[path.rpartition('.')[2]] = _config(value)
    except ValueError as e:  # a key with a dot
      raise CommandError(
        f'{path} is {text} but that does not fit ({e}).'
      ) from e
  _check_values(config, '')
  config.lock()


def _short(field: str, key: Any) -> Any:
  """A key of a dict by name, or a path in it, without a function's module."""
  if field not in _BY_NAME or not isinstance(key, str):
    return key
  return re.sub(r'^[\w.]*:', '', key)


def _config(value: Any) -> Any:
  return ml_collections.ConfigDict(value) if isinstance(value, dict) else value


def _check_values(config: ml_collections.ConfigDict, prefix: str) -> None:
  """Raises CommandError where a file has left a value to the command line."""
  for name in config:
    try:
      value = config[name]
    except config_dict.RequiredValueError:
      raise CommandError(
        f'config field {prefix + name!r} has no value; give'
        f' --config.{prefix}{name}=VALUE.'
      ) from None
    except Exception as e:  # it is computed from others, by the file's own code
      raise CommandError(
        f'config field {prefix + name!r} cannot be computed'
        f' ({type(e).__name__}: {e}); mend the config.'
      ) from None
    if isinstance(value, ml_collections.ConfigDict):
      _check_values(value, f'{prefix}{name}.')


def _holder(
  config: ml_collections.ConfigDict, path: str, field: Field
) -> ml_collections.ConfigDict:
  """The dict that a field within fields is in; made where it is missing."""
  top, *inner = path.split('.')
  if top not in config:
    config[top] = {} if field.required else field.default
  at, holder = top, config[top]
  for name in inner[:-1]:
    if isinstance(holder, ml_collections.ConfigDict):
      if name not in holder:
        holder[name] = {}
      at, holder = f'{at}.{name}', holder[name]
  if not isinstance(holder, ml_collections.ConfigDict):
    raise CommandError(
      f'{path} cannot be set: {at} is {holder!r} and no dict; give {at} as a'
      ' whole.'
    )
  return holder


def _literal(text: str) -> Any:
  """What a text means in Python; itself, where it means nothing there."""
  if text in ('true', 'false'):
    return text == 'true'
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def _tuple(text: str) -> tuple[Any, ...]:
  """Several values, or one; names need no quotes."""
  value = _literal(text)
  if isinstance(value, str) and ',' in text and value == text:
    bare = text.strip().removeprefix('(').removesuffix(')')
    return tuple(_literal(x.strip()) for x in bare.split(',') if x.strip())
  return tuple(value) if isinstance(value, tuple | list) else (value,)


def _of_kind(field: Field, text: str) -> Any:
  """A value for a field, by its documented type."""
  value = _literal(text)
  wrong = lambda must: CommandError(
    f'{field.name} is {text} but must be {must}.'
  )
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if field.kind == 'str':
    return value if isinstance(value, str) else text
  if field.kind == 'tuple':
    return _tuple(text)
  if field.kind == 'int' and not (number and isinstance(value, int)):
    raise wrong('a whole number')
  if field.kind == 'float':
    if not number and text.lower().lstrip('+-') not in ('inf', 'nan'):
      raise wrong('a number')
    return float(text)
  if field.kind == 'bool':
    if text.lower() not in (*_YES, *_NO):
      raise wrong('True or False')
    return text.lower() in _YES
  return value  # for a dict, pairs may stand as well


def _like(old: Any, text: str) -> Any:
  """A value within a dict, of the type of the one that it replaces."""
  value = _literal(text)
  if isinstance(old, tuple):
    return _tuple(text)
  if isinstance(old, str):
    return value if isinstance(value, str) else text
  if isinstance(old, float) and type(value) is int:
    return float(text)
  return value
