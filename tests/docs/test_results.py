"""The page of results says what the committed records say."""

import json
import re

from experiments.continual import tables as continual_tables
from experiments.one_shot import tables
from experiments.report import files
from experiments.sparse_training import tables as sparse_tables
from tests import tiny

_RESULTS = tiny.ROOT / 'docs' / 'results'
# A mean, half of its interval, whether that leaves out zero, and the seeds.
_CELL = re.compile(r'[+-]\d+\.\d+(?: ± \d+\.\d+\*?)? \d+/\d+')


def _markdown(path):
  """The tables of a run, or '' for a record of something else."""
  results = json.loads(path.read_text(encoding='utf-8'))
  if 'rows' not in results:
    return ''
  results = files.labelled(results, path.parent)
  if 'plans' in results:
    return sparse_tables.markdown(results)
  if results.get('experiment') == 'continual':
    return continual_tables.markdown(results)
  return tables.markdown(results)


def test_committed_tables_are_those_of_their_records():
  paths = sorted(_RESULTS.glob('*/tables.md'))
  old = [
    path.parent.name
    for path in paths
    if path.read_text('utf-8') != _markdown(path.with_name('results.json'))
  ]
  assert len(paths) > 15 and not old, f'run make figures: {old} are old'


def test_every_difference_on_the_page_is_in_a_record_and_the_other_way_round():
  page = (_RESULTS / 'README.md').read_text(encoding='utf-8')
  rows = '\n'.join(x for x in page.splitlines() if x.startswith('|'))
  records = [_markdown(path) for path in _RESULTS.glob('*/results.json')]
  assert set(_CELL.findall(rows)) == set(_CELL.findall('\n'.join(records)))
  assert len(_CELL.findall(rows)) > 300
