"""The demo of continual generative modelling: ten digits, no download.

One variational autoencoder of 8x8 pictures learns to draw 0, then 1, and so on,
by fine-tuning, EWC and EfficientPackNet at α = 1 and 2, three seeds. All values
are defaults of ours, the sizes among them. Time and numbers: docs/results.

  python -m experiments.generative --config=configs/digits_generative.py
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Every field of the experiment; all values are defaults of ours."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'digits',
      'num_tasks': 10,
      'encoder': (64, 64),
      'latent': 8,
      'head': (64, 64),
      'decoder': (256,),
      'powerprop_on': 'shared',
      'epochs': 60.0,
      'retrain_epochs': 0.0,
      'optimizer': 'adam',
      'optimizer_kwargs': {},
      'learning_rate': (0.002,),
      'learning_rate_schedule': {'kind': 'constant'},
      'l2': 0.0,
      'clip_norm': 0.0,
      'reset_optimizer': True,
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 2.0),
      'seeds': 3,
      'batch_size': 20,
      'methods': ('naive', 'ewc', 'efficient_packnet'),
      'method_kwargs': {
        'ewc': {'labels': 'true', 'coefficient': (1e3, 1e2, 1e1, 1e4)},
        'efficient_packnet': {'gamma': 0.95},
      },
      'method_training': {'efficient_packnet': {'retrain_epochs': 30.0}},
      'choose_learning_rate': False,
      'search_tasks': 3,
      'search_seeds': 1,
      'retries': 2,
      'retry_factor': 0.3,
      'likelihood_samples': 1_000,
      'likelihood_pictures': 0,
      'matrix_samples': 100,
      'executor': 'auto',
      'chunk_steps': 400,
      'checkpoint_seconds': 30.0,
    }
  )
