"""What travels with the weights: prepare (and undo), targets (encode and decode), the bundle on disk."""
