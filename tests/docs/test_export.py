"""docs/export.md: its code runs, and asks for a net that there is."""

import json
import pathlib
import re
import shlex
from typing import Any
from unittest import mock

import numpy as np
import pytest

from experiments.export import nets
from experiments.report import naming
from experiments.report.weights import Weights

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs' / 'export.md').read_text(encoding='utf-8')


def test_the_page_saves_and_loads_a_net(tmp_path, monkeypatch):
  pytest.importorskip('safetensors')
  monkeypatch.chdir(tmp_path)
  (code,) = re.findall(r'^```python\n(.*?)^```$', PAGE, re.M | re.S)
  names: dict[str, Any] = {}
  exec(compile(code, 'docs/export.md', 'exec'), names)
  found, w = names['found'], names['w']
  assert found.meta == {'layers': [300, 10]}
  for layer, leaves in w.items():
    for name, x in leaves.items():
      assert np.asarray(x).tobytes() == found.params[layer][name].tobytes()
  kept = sum(m.sum() for m in found.masks.values())
  assert kept == round(0.05 * 784 * 300) + round(0.05 * 3000)
  size = (tmp_path / 'net.safetensors').stat().st_size
  assert size < 0.07 * 4 * (784 * 300 + 3000)


def test_the_page_names_a_net_of_the_recorded_run():
  blocks = '\n'.join(re.findall(r'^```bash\n(.*?)^```$', PAGE, re.M | re.S))
  (flags,) = [
    shlex.split(x)
    for x in blocks.replace('\\\n', ' ').splitlines()
    if '--net=' in x
  ]
  (name,) = [x.removeprefix('--net=') for x in flags if x.startswith('--net=')]
  record = ROOT / 'docs' / 'results' / 'digits_sparse' / 'results.json'
  rows = json.loads(record.read_text(encoding='utf-8'))['rows']
  assert name in {naming.net_name(row) for row in rows}


def test_the_page_has_what_a_file_says():
  (told,) = re.findall(r'^`meta` says .*?\.\n\n', PAGE, re.M | re.S)
  fields = set(re.findall(r'`(\w+)`', told)) - {'meta'}
  run = nets.Run(mock.MagicMock(), mock.MagicMock(), 10, [{}], 'one_shot')
  found = Weights({}, {}, {}, {}, 2.0)
  assert set(nets.meta(run, 'a', None, found)) == fields
