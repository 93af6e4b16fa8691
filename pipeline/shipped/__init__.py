"""Package data: the nuclei model and its card; in a wheel also the configs, so that `maskline train nuclei` works by name."""

from pathlib import Path

FOLDER = Path(__file__).parent
