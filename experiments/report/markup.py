"""Tables in Markdown: how cells are set, and what they say of differences."""

from collections.abc import Callable, Sequence
import math

from experiments.report import differences
from experiments.report.statistics import Row

DIFFERENCE = (
  'In percentage points, seeds paired, with half the 95% interval by Student'
  "'s t where there are three seeds or more, * where that leaves out zero, and"
  ' in how many seeds it is above zero. Of twenty differences that are none,'
  ' one has a *.'
)

_WIDEST = 100  # columns of a terminal, and of a page


def difference_cell(
  found: differences.Difference, digits: int = 1, scale: float = 100.0
) -> str:
  """A difference as a cell, in the words of `DIFFERENCE`.

  Args:
    found: the difference.
    digits: after the point.
    scale: what it is multiplied by; see `differences.scale_of`.

  >>> difference_cell(differences.Difference(0.0125, 0.0025, 5, 4, 1))
  '+1.2 ± 0.2* 4/5'
  >>> difference_cell(differences.Difference(-0.25, math.nan, 2, 0, 2))
  '-25.0 0/2'
  >>> difference_cell(differences.Difference(math.nan, math.nan, 2, 1, 0))
  '– 1/2'
  """
  if not found.n:
    return '–'
  known = math.isfinite(found.mean)
  text = f'{scale * found.mean:+.{digits}f}' if known else '–'
  if math.isfinite(found.half):
    text += f' ± {scale * found.half:.{digits}f}' + '*' * found.clear
  return f'{text} {found.ahead}/{found.n}'


def grid(
  body: Sequence[Sequence[str]],
  headers: Sequence[str],
  align: str = 'right',
  keys: int = 1,
) -> str:
  """A table of these cells as Markdown, no wider than 100 columns.

  Args:
    body: a sequence of cells for each row, which are printed as they are.
    headers: one for each column.
    align: 'left' or 'right', of all columns.
    keys: how many columns say what a row is. What has no room goes into
      further tables, which begin with these.

  Returns:
    The lines of the table, or of the tables with an empty line between them,
    without a newline at the end. What does not fit in beside the keys alone is
    wider.
  """
  lines = [list(headers), *map(list, body)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  parts = [list(range(keys))]
  for column in range(keys, len(headers)):
    wide = 1 + sum(widths[i] + 3 for i in [*parts[-1], column])
    if wide > _WIDEST and len(parts[-1]) > keys:
      parts.append(list(range(keys)))
    parts[-1].append(column)
  side = '<' if align == 'left' else '>'

  def text(part: Sequence[int]) -> str:
    rule = '|'.join('-' * (widths[i] + 2) for i in part)
    head, *rest = (
      ' | '.join(f'{line[i]:{side}{widths[i]}}' for i in part) for line in lines
    )
    return '\n'.join(
      [f'| {head} |', f'|{rule}|', *(f'| {line} |' for line in rest)]
    )

  return '\n\n'.join(map(text, parts))


def unequal_line(found: Sequence[str]) -> str:
  """Which differences are not shown, in a sentence, or ''.

  Args:
    found: of each setting, how many tasks it and its baseline have learned.
  """
  if not found:
    return ''
  return (
    'Left out are pairs that have not learned as many tasks as each other, as'
    f' their averages are of other tasks: {"; ".join(found)}.'
  )


def emptied_line(rows: Sequence[Row], name: Callable[[Row], str]) -> str:
  """Which nets have layers without weights, in a sentence, or ''.

  Args:
    rows: with "emptied_layers"; those of older runs have none.
    name: what to call a row's setting, such as its density.
  """
  found: dict[str, dict[str, None]] = {}
  for row in rows:
    for layer in row.get('emptied_layers', ()):
      found.setdefault(layer, {})[name(row)] = None
  parts = [f'{layer} ({", ".join(where)})' for layer, where in found.items()]
  if not parts:
    return ''
  return f'At most one weight is left, in some nets, of {"; ".join(parts)}.'


def without_empty(
  body: Sequence[Sequence[str]],
  headers: Sequence[str],
  keys: int,
  align: str = 'left',
) -> str:
  """A `grid` without the columns all of whose cells are ''.

  Args:
    body: a list of cells for each line.
    headers: of the columns.
    keys: how many of the first columns stay in any case.
    align: as in `grid`.
  """
  full = [
    i for i in range(len(headers)) if i < keys or any(line[i] for line in body)
  ]
  cells = [[line[i] for i in full] for line in body]
  return grid(cells, [headers[i] for i in full], align, keys)
