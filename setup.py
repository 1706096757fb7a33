"""Packaging; the settings of the tools are in pyproject.toml."""

import pathlib
import re

import setuptools

_INIT = pathlib.Path(__file__).with_name('powerprop') / '__init__.py'
_VERSION = re.search(
  r"^__version__ = '([^']+)'$", _INIT.read_text(encoding='utf-8'), re.M
)
if _VERSION is None:
  raise RuntimeError(f"{_INIT} has no line of the form __version__ = '1.2.3'.")

# Ranges here; requirements.txt pins one set of versions that was tested.
_REQUIRED = [
  'absl-py>=2.0',
  'array_record>=0.5',
  'dm-haiku>=0.0.16',
  'importlib_resources',  # tensorflow-datasets 4.9.10 forgets to ask for it
  'jax>=0.10',
  'jaxlib>=0.10',
  'matplotlib>=3.9',
  'ml-collections>=1.0',
  'numpy>=2.0',
  'optax>=0.2.5',
  'orbax-checkpoint>=0.11',
  'pillow>=10.0',  # tensorflow-datasets decodes pictures with it
  'scikit-learn>=1.5',
  'scipy>=1.13',
  'tabulate>=0.9',
  'tensorboardX>=2.6',
  'tensorflow-datasets>=4.9.7',
  'tqdm>=4.66',
]

# TensorFlow only downloads and prepares data sets; reading them needs none.
# On x86 the smaller build will do, which other machines do not have.
_PREPARE = [
  'tensorflow-cpu>=2.16; platform_machine == "x86_64"',
  'tensorflow>=2.16; platform_machine != "x86_64"',
]

_TEST = [
  'hypothesis>=6.100',
  'ipykernel>=6.29',  # ipykernel, nbclient and nbformat run the notebooks
  'nbclient>=0.10',
  'nbformat>=5.10',
  'pytest>=8.0',
  'pytest-xdist>=3.6',
]

_LINT = ['mypy>=1.11', 'ruff>=0.9']

setuptools.setup(
  name='powerprop',
  version=_VERSION[1],
  description='Powerpropagation for JAX, Haiku and Optax.',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  # configs/, experiments/ and benchmarks/ are run from a checkout. Installed,
  # names as general as these would get in the way of other packages.
  packages=setuptools.find_packages(include=['powerprop', 'powerprop.*']),
  install_requires=_REQUIRED,
  extras_require={'prepare': _PREPARE, 'test': _TEST, 'lint': _LINT},
)
