"""The pages of results say what the committed records say."""

import json
import re

import pytest

from experiments.continual import tables as continual_tables
from experiments.one_shot import tables
from experiments.report import files
from experiments.report import overview
from experiments.sparse_training import tables as sparse_tables
from tests import tiny

_RESULTS = tiny.ROOT / 'docs' / 'results'
_PAGES = sorted(_RESULTS.glob('*/README.md'))
_RUNS = [page for page in _PAGES if page.with_name('config.json').is_file()]
# A mean, half of its interval, whether that leaves out zero, and the seeds.
_CELL = re.compile(r'[+-]\d+\.\d+(?: ± \d+\.\d+\*?)? \d+/\d+')
# A mean and a standard deviation.
_MEAN = re.compile(r'(?<![\d+.-])\d+\.\d+ ± \d+\.\d+(?![\d*])')


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


def _rows(text):
  """The lines of a page's tables."""
  return '\n'.join(x for x in text.splitlines() if x.startswith('|'))


def test_committed_tables_are_those_of_their_records():
  paths = sorted(_RESULTS.glob('*/tables.md'))
  old = [
    path.parent.name
    for path in paths
    if path.read_text('utf-8') != _markdown(path.with_name('results.json'))
  ]
  assert len(paths) > 15 and not old, f'run make figures: {old} are old'


@pytest.mark.parametrize('page', _RUNS, ids=lambda p: p.parent.name)
def test_a_page_has_the_numbers_of_its_record(page):
  text = page.read_text(encoding='utf-8')
  path = page.with_name('results.json')
  shown, record = _rows(text), _markdown(path)
  assert set(_CELL.findall(shown)) == set(_CELL.findall(record))
  assert set(_MEAN.findall(shown)) <= set(_MEAN.findall(record))
  ran = json.loads(path.read_text(encoding='utf-8'))['environment']
  assert f'`{ran["commit"][:7]}`' in text
  seconds = {f'{ran[f"{name}_seconds"]:,.0f} s' for name in ('train', 'wall')}
  assert seconds & set(re.findall(r'[\d,]+ s\b', text))
  assert ran['processor'] == 'AMD EPYC' or ran['processor'] in text
  (config,) = re.findall(r'--config=(\S+)', ran['command'])
  assert f'--config={config}' in text


def test_the_first_page_has_the_table_of_all_records():
  text = (_RESULTS / 'README.md').read_text(encoding='utf-8')
  assert overview.page(text, _RESULTS) == text, 'run make figures'
  assert text.count('\n') < 250


def test_the_first_page_says_in_short_what_its_table_says():
  text = (_RESULTS / 'README.md').read_text(encoding='utf-8')
  short, _, rest = text.partition('\n## ')
  numbers = re.findall(r'\d+\.\d+', short)
  assert len(numbers) > 15
  assert not set(numbers) - set(re.findall(r'\d+\.\d+', _rows(rest)))


def test_every_record_has_a_page_and_the_first_page_leads_to_all():
  text = (_RESULTS / 'README.md').read_text(encoding='utf-8')
  linked = set(re.findall(r'\]\((\w+)/README\.md\)', text))
  assert linked == {page.parent.name for page in _PAGES}
  # The pages of other runs have these.
  within = {'bench_continual', 'bench_sparse', 'nudged'}
  folders = {path.name for path in _RESULTS.iterdir() if path.is_dir()}
  assert folders - within == linked
