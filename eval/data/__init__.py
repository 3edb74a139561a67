"""What a model is measured on: data sets, their layouts and protocols, and pairs of images."""
