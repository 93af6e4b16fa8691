"""Package data: the nuclei model and its card; in a wheel also the configs, so that `maskline train nuclei` works by name."""
