r"""Table 3, notMNIST: ten letters drawn in turn by one variational autoencoder.

The protocol of `table3_mnist`, 400 epochs a task. The pictures are those of the
folder of A to J that its author publishes; the splits are by hash, as
docs/experiments.md says, a tenth of the training pictures for validation.

Table 3 has, in nats: fine-tuning -797.88, Laplace -225.54, EWC -212.62, SI
-190.48, VCL -187.34, EfficientPackNet -177.08; with Powerprop Laplace -196.87,
EWC -188.56, EfficientPackNet -174.54.

For a GPU; not run.

  python -m experiments.generative --config=configs/table3_notmnist.py \
    --config.dataset_kwargs.folder=notMNIST_large
"""

import ml_collections

from configs import table3_mnist


def get_config() -> ml_collections.ConfigDict:
  """That of `table3_mnist`, with what is said above."""
  config = table3_mnist.get_config()
  config.dataset = 'notmnist'
  config.dataset_kwargs = ml_collections.ConfigDict({'folder': ''})
  config.epochs = 400.0
  config.method_training.efficient_packnet.retrain_epochs = 200.0
  return config
