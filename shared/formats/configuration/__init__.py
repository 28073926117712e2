"""What files say about a network beside its tensors: each project's configuration, read as data."""
