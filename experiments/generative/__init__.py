"""Ten characters, drawn one after the other by one variational autoencoder."""
