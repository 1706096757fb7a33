"""Config files: found, read, listed; whatever is wrong is one sentence."""

import ast
from collections.abc import Iterator
import difflib
import os
import pathlib
import sys
import textwrap
import traceback
import types

import ml_collections

ROOT = pathlib.Path(__file__).resolve().parents[2]


class CommandError(ValueError):
  """A command line or a config file is wrong; the message says how."""


def find(given: str) -> pathlib.Path:
  """The config file that is meant by a path or a name.

  Args:
    given: a path, from here or from the repository's root, or the name of a
      file in configs/.

  Returns:
    The path, as it is to be shown.

  Raises:
    CommandError: if there is none, with the nearest one.
  """
  path = pathlib.Path(os.path.expanduser(given))
  tries = [path, ROOT / path]
  if len(path.parts) == 1:
    named = pathlib.Path('configs', path.name.removesuffix('.py') + '.py')
    tries += [named, ROOT / named]
  try:
    for place in tries:
      if place.is_file():
        return place
  except OSError as e:
    raise CommandError(
      f'the config file {given!r} cannot be read ({e.strerror}); choose'
      ' another.'
    ) from None
  if path.is_dir():
    what = f'{given!r} is a folder and no config file'
  else:
    what = f'the config file {given!r} does not exist'
  there = {p.stem: p for p in [*sorted(path.parent.glob('*.py')), *_files()]}
  near = difflib.get_close_matches(path.stem, there, n=1)
  hint = f' (did you mean {_short(there[near[0]])}?)' if near else ''
  raise CommandError(f'{what}{hint}; --help lists the configs.')


def read(path: pathlib.Path) -> ml_collections.ConfigDict:
  """What get_config() of a file returns.

  Raises:
    CommandError: if the file is no Python, or raises, or gives no config.
  """
  module = types.ModuleType('config_file')
  module.__file__ = str(path)
  sys.modules[module.__name__] = module  # as dataclasses in it expect
  try:
    # Not by an importer: that would keep and trust a compiled copy.
    exec(compile(path.read_bytes(), str(path), 'exec'), module.__dict__)
    make = getattr(module, 'get_config', None)
    if not callable(make):
      raise CommandError(
        f'{path} has no function get_config(); add it'
        ' (docs/experiments.md, "Write a config").'
      )
    config = make()
  except CommandError:
    raise
  except SyntaxError as e:
    line = f', line {e.lineno}' if e.lineno else ''
    quoted = f' in {e.text.strip()!r}' if e.text and e.text.strip() else ''
    raise CommandError(
      f'{e.filename or path}{line}: {e.msg}{quoted}; mend it.'
    ) from None
  # Whatever it does, SystemExit too: the file is the user's own program.
  except (Exception, SystemExit) as e:
    raise CommandError(f'{_place(e, path)}: {_what(e)}; mend it.') from None
  if not isinstance(config, ml_collections.ConfigDict):
    raise CommandError(
      f'get_config() of {path} returns {type(config).__name__} but must return'
      ' an ml_collections.ConfigDict.'
    )
  return config


def of_binary(binary: str) -> Iterator[tuple[str, str]]:
  """The configs of a binary: paths, and the first line about each.

  A config's docstring has its command. No file is run for this.
  """
  for path in _files():
    try:
      doc = ast.get_docstring(ast.parse(path.read_bytes())) or ''
    except (OSError, SyntaxError, ValueError):
      continue  # whoever runs it will hear of it
    if f'python -m experiments.{binary} ' in doc:
      yield _short(path), doc.partition('\n')[0]


def _files() -> list[pathlib.Path]:
  """All in configs/, here and in the repository."""
  here = pathlib.Path('configs').absolute()
  folders = {here.resolve(): here, ROOT / 'configs': ROOT / 'configs'}
  return [
    p
    for folder in folders.values()
    for p in sorted(folder.glob('*.py'))
    if not p.name.startswith('_')
  ]


def _short(path: pathlib.Path) -> str:
  """A path as one would type it here."""
  for folder in (ROOT, pathlib.Path.cwd()):
    if path.absolute().is_relative_to(folder):
      return str(path.absolute().relative_to(folder))
  return str(path)


def _place(e: BaseException, path: pathlib.Path) -> str:
  """Where in the config file something was raised."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(e.__traceback__)
    if frame.filename == str(path)
  ]
  return f'{path}, line {lines[-1]}' if lines else str(path)


def _what(e: BaseException) -> str:
  text = textwrap.shorten(str(e), 200, placeholder=' …').rstrip('.')
  return f'{type(e).__name__}: {text}' if text else type(e).__name__
