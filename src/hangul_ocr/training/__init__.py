"""The training loop and its k-fold driver."""
