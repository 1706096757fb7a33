"""docs/generative.md says what is there."""

import importlib
import pathlib
import re

import pytest

from experiments.continual import settings as continual_settings
from experiments.engine import config_files
from experiments.engine import fields
from experiments.generative import analysis
from experiments.generative import settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'docs' / 'generative.md').read_text(encoding='utf-8')
CONFIGS = (
  'digits_generative',
  'table3_mnist',
  'table3_notmnist',
  'table3_mnist_small',
  'table3_notmnist_small',
)


def _column(header):
  (table,) = re.findall(
    rf'^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)', TEXT, re.M
  )
  return re.findall(r'^\| `(\w+)`', table, re.M)


def test_the_page_has_the_fields():
  own = [n for n in settings.GenerativeSettings._fields if n != 'training']
  assert _column('field') == own
  (unused,) = re.findall(r'but for (`network`.*?), which', TEXT, re.S)
  of_continual = {*fields.of('continual')}
  assert {*re.findall(r'`(\w+)`', unused)} == of_continual - {
    *fields.of('generative')
  }


def test_the_page_has_the_keys_of_rows():
  assert _column('key') == [
    *analysis.NAMES.values(),
    'log_likelihood',
    'log_likelihood_error',
  ]


def test_the_fields_are_those_of_the_check():
  """What the command line knows is what the settings take."""
  it = settings._EXTENDED
  assert {*fields.of('generative')} == {*it.shared, *it.own}
  assert not {*settings._TAKEN} - {
    *continual_settings.ContinualSettings._fields
  }


@pytest.mark.parametrize('name', CONFIGS)
def test_configs_are_understood(name):
  config = config_files.read(config_files.find(name))
  s = settings.check(config)
  module = importlib.import_module(f'configs.{name}')
  assert f'--config=configs/{name}.py' in module.__doc__
  if name.startswith('table3'):
    # The net of the protocol, and every row of the table.
    assert (s.encoder, s.latent, s.head, s.decoder) == (
      (500, 500),
      50,
      (500, 500),
      (500,),
    )
    methods = {
      continual_settings.method_of(s.training, m) for m in s.training.methods
    }
    assert methods >= {
      *('naive', 'online_ewc', 'ewc', 'si', 'vcl', 'efficient_packnet'),
    }
    assert s.training.training.batch_size == 50
    # For each α as many candidates, whatever it is that a method chooses.
    for m in s.training.methods:
      mine = continual_settings.of_method(s.training, m)
      rates = mine.training.learning_rate
      assert len(rates) * len(continual_settings.coefficients(mine, m)) == 9
      assert rates[0] == s.training.training.learning_rate[0]
