"""The ground floor: errors, configs, files, folders, tensors and images."""
