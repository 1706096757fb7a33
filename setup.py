"""Packaging; the settings of the tools are in pyproject.toml."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_INIT = _ROOT / 'powerprop' / '__init__.py'
_README = (_ROOT / 'README.md').read_text(encoding='utf-8')
_VERSION = re.search(
  r"^__version__ = '([^']+)'$", _INIT.read_text(encoding='utf-8'), re.M
)
if _VERSION is None:
  raise RuntimeError(f"{_INIT} has no line of the form __version__ = '1.2.3'.")

# Ranges here; requirements.txt pins one set of versions that was tested.
_REQUIRED = [
  'dm-haiku>=0.0.16',
  'jax>=0.10',
  'numpy>=2.0',
  'optax>=0.2.5',
]

# What files of sparse weights need.
_EXPORT = ['safetensors>=0.5']

# ONNX; jax2onnx holds orbax-checkpoint back, so not in requirements.txt.
_ONNX = ['jax2onnx>=0.17.1', 'onnxruntime>=1.24']

# What experiments/ needs beside the library. They are run from a checkout.
_EXPERIMENTS = [
  *_EXPORT,
  'absl-py>=2.0',
  'array_record>=0.5',
  'grain>=0.2.18',
  'importlib_resources',  # tensorflow-datasets 4.9.10 forgets to ask for it
  'jaxlib>=0.10',
  'matplotlib>=3.9',
  'ml-collections>=1.0',
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
  description='Powerpropagation for JAX, Haiku and Optax: nets that stay good'
  ' with few of their weights.',
  long_description=_README,
  long_description_content_type='text/markdown',
  author='The powerprop authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  keywords=[
    'continual learning',
    'haiku',
    'jax',
    'optax',
    'powerpropagation',
    'pruning',
    'sparse training',
    'sparsity',
  ],
  project_urls={'Paper': 'https://arxiv.org/abs/2110.00296'},
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Operating System :: OS Independent',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
  python_requires='>=3.11',
  # configs/, experiments/ and benchmarks/ are run from a checkout. Installed,
  # names as general as these would get in the way of other packages.
  packages=setuptools.find_packages(include=['powerprop', 'powerprop.*']),
  package_data={'powerprop': ['py.typed']},
  install_requires=_REQUIRED,
  extras_require={
    'experiments': _EXPERIMENTS,
    'export': _EXPORT,
    'onnx': [*_EXPORT, *_ONNX],
    'prepare': [*_EXPERIMENTS, *_PREPARE],
    'test': [*_EXPERIMENTS, *_TEST],
    'lint': _LINT,
  },
)
