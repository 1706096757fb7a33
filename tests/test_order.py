"""Nothing runs in the order of a set or of a folder's listing.

Both differ from one start to the next (`PYTHONHASHSEED`) or between machines,
and so would logs, tables and results.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
_FOLDERS = ('powerprop', 'experiments', 'benchmarks', 'configs')
_LISTINGS = ('glob', 'rglob', 'iterdir', 'listdir', 'scandir')
# Their results are the same in any order of what they are given.
_ANY_ORDER = ('all', 'any', 'frozenset', 'len', 'max', 'min', 'set', 'sorted')
_KEEPS_ORDER = ('list', 'tuple', 'join', 'enumerate', 'zip', 'map', 'fromkeys')


def _called(node: ast.AST) -> str:
  """The last name of what is called, or ''."""
  if not isinstance(node, ast.Call):
    return ''
  return getattr(node.func, 'attr', getattr(node.func, 'id', ''))


def _unordered(node: ast.AST, names: frozenset[str]) -> bool:
  """Whether an expression is a set or a listing; `names` are sets."""
  if isinstance(node, ast.Set | ast.SetComp):
    return True
  if isinstance(node, ast.BinOp):
    return _unordered(node.left, names) or _unordered(node.right, names)
  if isinstance(node, ast.Name):
    return node.id in names
  if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
    owner = getattr(node.func.value, 'id', '')
    if node.func.attr == 'set' and owner != 'builtins':
      return False  # as `axes.set(...)`
  return _called(node) in ('set', 'frozenset', *_LISTINGS)


def _key_sets(node: ast.AST) -> bool:
  """Whether it is an operation on a dict's keys, which makes a set."""
  return isinstance(node, ast.BinOp) and 'keys' in (
    _called(node.left),
    _called(node.right),
  )


def _sets_of(function: ast.AST) -> frozenset[str]:
  """Names that are only ever bound to sets in a function or module."""
  sets, others = set(), set()
  for node in ast.walk(function):
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
      targets = getattr(node, 'targets', None) or [node.target]
      for target in targets:
        for name in ast.walk(target):
          if isinstance(name, ast.Name):
            direct = name is target and _unordered(node.value, frozenset())
            (sets if direct else others).add(name.id)
    elif isinstance(node, ast.For | ast.comprehension | ast.NamedExpr):
      others |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
    elif isinstance(node, ast.arg):
      others.add(node.arg)
  return frozenset(sets - others)


def ordered_by_chance(source: str) -> list[int]:
  """The lines that run through a set or a listing in the order it has.

  Args:
    source: of a module.

  Returns:
    Line numbers. A set that comes from a function or a field is not seen.
  """
  tree = ast.parse(source)
  scopes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
  sets_in = {id(tree): _sets_of(tree)}
  scope_of = {id(n): tree for n in ast.walk(tree)}
  for scope in scopes:  # outer ones first
    sets_in[id(scope)] = _sets_of(scope)
    scope_of |= {id(n): scope for n in ast.walk(scope)}
  free = set()  # comprehensions and loops whose order does not matter
  for node in ast.walk(tree):
    if _called(node) in _ANY_ORDER:
      free |= {id(a) for a in node.args}
    elif isinstance(node, ast.SetComp):
      free.add(id(node))
  found = set()

  def check(node, at):
    if _unordered(node, sets_in[id(scope_of[id(node)])]) or _key_sets(node):
      found.add(at.lineno)

  for node in ast.walk(tree):
    if isinstance(node, ast.For):
      check(node.iter, node)
    elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp):
      if id(node) not in free:
        for generator in node.generators:
          check(generator.iter, node)
    elif isinstance(node, ast.List | ast.Tuple) and id(node) not in free:
      for element in node.elts:
        if isinstance(element, ast.Starred):
          check(element.value, node)
    elif _called(node) in _KEEPS_ORDER and id(node) not in free:
      for argument in node.args:
        check(argument, node)
  return sorted(found)


@pytest.mark.parametrize(
  ('line', 'number'),
  [
    ('for x in {m for m in ms}: print(x)', 1),
    ('for x in set(a) - set(b): print(x)', 1),
    ('for x in a.keys() - b: print(x)', 1),
    ('for p in folder.glob("*"): print(p)', 1),
    ('a = {1, 2}\nout = [x for x in a]', 2),
    ('def f(a):\n  b = set(a)\n  return ", ".join(b)', 3),
    ('print([*{1, 2}])', 1),
    ('print(list(frozenset(a)))', 1),
    ('for x in sorted({m for m in ms}): print(x)', None),
    ('a = sorted(p for p in folder.glob("*"))', None),
    ('a = {1, 2}\ndef f(a):\n  return [x for x in a]', None),
    ('a = {x for x in set(b)}', None),
    ('for x in axes.set(title=""): print(x)', None),
    ('n = len(list(folder.glob("*")))', None),
    ('a = {1: 2}\nfor x in a: print(x)', None),
  ],
)
def test_the_check_sees(line, number):
  assert ordered_by_chance(line) == ([] if number is None else [number])


def test_no_order_is_left_to_chance():
  found = [
    f'{file.relative_to(ROOT)}:{line}'
    for folder in _FOLDERS
    for file in sorted((ROOT / folder).rglob('*.py'))
    for line in ordered_by_chance(file.read_text(encoding='utf-8'))
  ]
  assert not found, (
    f'{", ".join(found)}: sort it, or keep the order of what it was made of'
    ' with dict.fromkeys.'
  )
