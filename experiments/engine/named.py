"""What a config names: something of ours, or a function of the user's own.

'package.module:function' is found on the Python path, with the current folder
first. Where a config has transforms or methods by name, such a function goes by
its own name: 'package.module:function' in `methods` is 'function' in
`method_kwargs`, in `labels`, and in all folders, tables and figures.
"""

from collections.abc import Callable, Mapping
import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
import types
from typing import Any

from experiments.engine import validation
from experiments.engine.validation import ConfigError

_FORM = re.compile(r'(\w+(?:\.\w+)*):(\w+)')
# Fields with names, where the options of each are, and which of them says what
# a name stands for.
_CHOICES = (
  ('transforms', 'transform_kwargs', 'transform'),
  ('methods', 'method_kwargs', 'method'),
)
_BY_NAME = ('transform_kwargs', 'method_kwargs', 'method_training', 'labels')


def is_own(name: Any) -> bool:
  """Whether this is 'package.module:function', well-formed or not."""
  return isinstance(name, str) and ':' in name and not name.endswith('.npz')


def short(name: str) -> str:
  """What a function goes by: what comes after the colon.

  >>> short('package.module:function'), short('powerprop')
  ('function', 'powerprop')
  """
  return name.rpartition(':')[2] if is_own(name) else name


def by_short_names(given: Mapping[str, Any]) -> dict[str, Any]:
  """A config in which functions go by their names wherever several are named.

  Args:
    given: a config, which need not be right.

  Returns:
    The same, where `transform_kwargs` and `method_kwargs` say what such names
    stand for, as a config may write it itself:
    {'function': {'method': 'package.module:function'}}.

  Raises:
    ConfigError: if two functions have the same name.
  """
  out = dict(given)
  for field in _BY_NAME:
    if isinstance(out.get(field), dict):
      # An override may have added 'function' to a file's 'module:function'.
      found: dict[str, Any] = {}
      for key, value in out[field].items():
        old = found.get(short(key))
        if isinstance(old, dict) and isinstance(value, dict):
          value = {**old, **value}
        found[short(key)] = value
      out[field] = found
  for field, options, option in _CHOICES:
    chosen, kwargs = out.get(field), out.get(options)
    several = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(several, tuple | list) or not isinstance(kwargs, dict):
      continue  # whoever checks the config says so
    if not any(map(is_own, several)):
      continue
    for name in filter(is_own, several):
      mine = kwargs.get(short(name), {})
      if isinstance(mine, dict) and mine.get(option, name) != name:
        raise ConfigError(
          f'{field} has {name!r} but {short(name)!r} is also'
          f' {mine[option]!r}: give one of them another name, as in {options} ='
          f' {{"another": {{"{option}": "{name}"}}}}.'
        )
      if isinstance(mine, dict):
        kwargs = {**kwargs, short(name): {**mine, option: name}}
    out[field], out[options] = [short(n) for n in several], kwargs
  return out


def stands_for(name: str, kwargs: Mapping[str, Any], option: str) -> Any:
  """What a name stands for: what its options say, or itself.

  Args:
    name: of a transform or a method, in a config.
    kwargs: the options by name.
    option: 'transform' or 'method'.
  """
  mine = kwargs.get(name, {})
  return mine.get(option, name) if isinstance(mine, dict) else name


def check(
  field: str,
  value: Any,
  names: list[str],
  name: str | None = None,
  parameter: str | None = None,
) -> None:
  """Checks that there is what a config names.

  Args:
    field: of the config, 'method' for one of the methods.
    value: one of ours, or a function of the user's own.
    names: ours.
    name: what it goes by, where that may be another; then none of ours.
    parameter: that the function must have.

  Raises:
    ConfigError: if there is no such thing, or it is not to be had.
  """
  if not is_own(value):
    validation.known(field, value, names)
    return
  fn = function(field, value, {})
  if name in names:
    raise ConfigError(
      f'{field} {value!r} goes by the name {name!r}, as one of ours does: call'
      f' it otherwise, as in {field}_kwargs = {{"another": {{"{field}":'
      f' "{value}"}}}}.'
    )
  try:
    known = parameter is None or parameter in inspect.signature(fn).parameters
  except (TypeError, ValueError):  # it does not say
    known = True
  if not known:
    raise ConfigError(
      f'{field} {value!r} has no argument called {parameter}, but it is called'
      f' with one: see docs/own_code.md.'
    )


def function(
  field: str, value: str, ours: Mapping[str, Any]
) -> Callable[..., Any]:
  """The function that a config names.

  Args:
    field: of the config.
    value: a key of `ours`, or 'package.module:function'.
    ours: by name.

  Raises:
    ConfigError: if the user's own is not there, or importing it fails.
  """
  if not is_own(value):
    return ours[value]
  form = _FORM.fullmatch(value)
  if form is None:
    raise ConfigError(
      f"{field} is {value!r} but must be 'package.module:function' to name a"
      ' function of your own.'
    )
  module = _import(field, value, form[1])
  found = getattr(module, form[2], None)
  if callable(found):
    return found
  there = [n for n in vars(module) if callable(vars(module)[n])]
  near = difflib.get_close_matches(form[2], there, n=1)
  hint = f' (did you mean {near[0]!r}?)' if near else ''
  raise ConfigError(
    f'{field} is {value!r} but {module.__file__ or form[1]} has no function'
    f' {form[2]!r}{hint}; write it there, or name another.'
  )


def if_there(value: Any, ours: Mapping[str, Any]) -> Callable[..., Any] | None:
  """The function that a config names, which need not be right; else None."""
  try:
    return function('', value, ours) if isinstance(value, str) else None
  except (KeyError, ConfigError):
    return None


def call(field: str, value: str, *args: Any, **kwargs: Any) -> Any:
  """What the user's own function returns; see `function`.

  Raises:
    ConfigError: with the place, if it raises.
  """
  fn = function(field, value, {})
  try:
    return fn(*args, **kwargs)
  except MemoryError:
    raise
  except Exception as e:  # whatever a function of the user's own may raise
    raise ConfigError(
      f'{field} is {value!r} but calling it fails ({_what(e)}); mend it.'
    ) from None


def _import(field: str, value: str, name: str) -> types.ModuleType:
  """The module, from the current folder before all others."""
  here = os.getcwd()
  if sys.path[:1] not in ([''], [here]):
    sys.path.insert(0, here)
  importlib.invalidate_caches()  # it may just have been written
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as e:
    if e.name is None or not f'{name}.'.startswith(f'{e.name}.'):
      why = f'importing {name} fails ({_what(e)}); mend it'
    else:
      why = (
        f'there is no module {e.name!r} in {here} or on the Python path; start'
        ' from the folder that has it, or add that to PYTHONPATH'
      )
  # Whatever it does, SystemExit too: it is the user's own program.
  except (Exception, SystemExit) as e:
    why = f'importing {name} fails ({_what(e)}); mend it'
  raise ConfigError(f'{field} is {value!r} but {why}.') from None


def _what(e: BaseException) -> str:
  """An exception in a line, with the place in the user's code."""
  text = f'{type(e).__name__}: {validation.why(e).rstrip(".")}'
  if isinstance(e, SyntaxError):
    return f'{text}' if e.lineno is None else f'{text}, line {e.lineno}'
  frames = traceback.extract_tb(e.__traceback__)
  last = [f for f in frames if not f.filename.startswith('<')][-1:]
  return ''.join([text, *(f', {f.filename}, line {f.lineno}' for f in last)])
