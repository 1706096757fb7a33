"""The house is as docs/architecture.md has it; nothing imports upwards."""

import ast
from collections.abc import Iterator
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
_EXPERIMENTS = (
  'one_shot',
  'sparse_training',
  'continual',
  'stream',
  'generative',
)
# What each may import of ours; experiments.plan is a binary of sparse_training.
_MAY = {
  'powerprop': {'powerprop'},
  'data': {'powerprop', 'data'},
  'report': {'powerprop', 'report'},
  'engine': {'powerprop', 'data', 'report', 'engine'},
  **{
    name: {'powerprop', 'data', 'report', 'engine', name}
    for name in _EXPERIMENTS
  },
  # It learns sequences, as `continual` does, and only sees them otherwise.
  'stream': {'powerprop', 'data', 'report', 'engine', 'continual', 'stream'},
  # It learns sequences of another problem.
  'generative': {
    'powerprop',
    'data',
    'report',
    'engine',
    'continual',
    'generative',
  },
  # Sequences have more outputs than their tasks, which `continual` knows.
  'export': {'powerprop', 'data', 'report', 'engine', 'continual', 'export'},
  'plan': {'powerprop', 'report', 'engine', 'sparse_training'},
}


def _rooms(heading: str) -> list[str]:
  """The names in the table of rooms below a heading, from the top."""
  (section,) = re.findall(
    rf'^### {re.escape(heading)}$(.*?)(?=^##)', PAGE, re.M | re.S
  )
  table = section.partition('| room | what it holds |')[2]
  return re.findall(r'^\| `(\w+)(?:\.py|/)`', table, re.M)


def _files() -> list[pathlib.Path]:
  return [
    file
    for folder in ('powerprop', 'experiments')
    for file in sorted((ROOT / folder).rglob('*.py'))
  ]


def _module(file: pathlib.Path) -> str:
  name = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
  return name.removesuffix('.__init__')


_MODULES = {_module(file): file for file in _files()}


def _imports(file: pathlib.Path) -> Iterator[str]:
  """The modules of ours that a file imports, wherever in it."""
  for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom):
      assert not node.level, f'{file} imports by a relative name'
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        yield full if full in _MODULES else node.module or ''
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


def _place(module: str) -> tuple[str, str]:
  """(wing, room) of a module of ours."""
  head, *rest = module.split('.')
  if head == 'experiments' and rest:
    return rest[0], rest[1] if rest[1:] else '__init__'
  return head, rest[0] if rest else '__init__'


def _ours(file: pathlib.Path) -> list[str]:
  """The modules of ours that a file imports."""
  heads = ('powerprop', 'experiments', 'tests', 'benchmarks')
  return [m for m in _imports(file) if m.split('.')[0] in heads]


@pytest.mark.parametrize(
  'wing', ['powerprop', 'data', 'report', 'engine', 'export']
)
def test_the_page_lists_every_room(wing):
  there = {_place(m)[1] for m in _MODULES if _place(m)[0] == wing}
  heading = f'`{wing if wing == "powerprop" else f"experiments.{wing}"}`'
  rooms = _rooms(heading.replace('experiments.', 'experiments/'))
  assert sorted(rooms) == sorted(there - {'__init__'})


def test_the_page_lists_the_rooms_of_an_experiment():
  there = {_place(m)[1] for m in _MODULES if _place(m)[0] in _EXPERIMENTS}
  assert sorted(_rooms('An experiment')) == sorted(there - {'__init__'})


def test_every_wing_is_on_the_page():
  wings = {_place(m)[0] for m in _MODULES} - {'experiments'}
  assert wings == set(_MAY)
  (table,) = re.findall(r'^\| wing \|.*\n\|[-|]+\n((?:\|.*\n)+)', PAGE, re.M)
  named = re.findall(r'^\| `(?:experiments\.)?(\w+)`', table, re.M)
  assert sorted([*named, 'plan']) == sorted(_MAY)


def test_nothing_imports_across_or_upwards():
  order = {
    wing: _rooms(
      'An experiment'
      if wing in _EXPERIMENTS
      else f'`{"" if wing == "powerprop" else "experiments/"}{wing}`'
    )
    for wing in _MAY
    if wing != 'plan'
  }
  faults = []
  for module, file in _MODULES.items():
    wing, room = _place(module)
    if wing == 'experiments':
      continue
    for other in _ours(file):
      to_wing, to_room = _place(other)
      if to_wing not in _MAY[wing]:
        faults.append(f'{module} imports {other}: across')
      elif to_wing == wing and room != to_room != '__init__' != room:
        if order[wing].index(to_room) > order[wing].index(room):
          faults.append(f'{module} imports {other}: upwards')
  assert not faults


def test_configs_import_nothing_of_ours():
  for file in (ROOT / 'configs').glob('*.py'):
    assert not _ours(file), file


def test_importing_the_library_loads_nothing_else_of_ours():
  program = (
    'import sys, powerprop\n'
    'heads = {n.split(".")[0] for n in sys.modules}\n'
    'print(*sorted(heads & set(sys.argv[1:])))'
  )
  others = ['experiments', 'ml_collections', 'orbax', 'matplotlib', 'tqdm']
  done = subprocess.run(
    [sys.executable, '-c', program, *others, 'safetensors', 'sklearn'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert not done.stdout.split()
