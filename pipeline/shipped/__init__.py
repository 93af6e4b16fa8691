"""Package data: the nuclei model and its card; in a wheel also the configs, so that names work for `maskline train`."""

from pathlib import Path

FOLDER = Path(__file__).parent
