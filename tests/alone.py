"""What the wheel alone must do: run with an environment that has nothing else.

  python -I tests/alone.py PAGE [PAGE ...]

imports the library, which must load nothing of this checkout, and runs the code
of these pages that needs no experiments, from the top, as a reader would.
"""

import pathlib
import re
import sys

import powerprop


def main(pages: list[str]) -> None:
  """Runs the pages' code; any fault in it ends the process."""
  root = pathlib.Path(__file__).resolve().parents[1]
  place = pathlib.Path(powerprop.__file__).resolve()
  if place.is_relative_to(root / 'powerprop'):
    raise SystemExit(f'{place} is of the checkout, not of the wheel.')
  if not place.with_name('py.typed').exists():
    raise SystemExit('The wheel has no py.typed.')
  for page in pages:
    text = (root / page).read_text(encoding='utf-8')
    blocks = re.findall(r'^```python\n(.*?)^```$', text, re.M | re.S)
    mine = [b for b in blocks if not re.search(r'experiments|configs', b)]
    names: dict[str, object] = {'__name__': 'page'}
    for block in mine:
      exec(compile(block, page, 'exec'), names)
    print(f'{page}: {len(mine)} of {len(blocks)} pieces of code ran.')
  loaded = {'experiments', 'configs', 'ml_collections'} & set(sys.modules)
  if loaded:
    raise SystemExit(f'The library loaded {", ".join(sorted(loaded))}.')


if __name__ == '__main__':
  main(sys.argv[1:])
