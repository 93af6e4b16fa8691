"""Files to values and back: images, masks, manifests, ingest, made images."""
