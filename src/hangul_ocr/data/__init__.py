"""From files to tensors: importers, the LMDB store, folds, augmentation and batches."""
