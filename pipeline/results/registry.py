"""Registered models: folders of safetensors + JSON under a name, numbered, with aliases. Never pickled.

`Registry` speaks to the store through the client that tracking hands it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.files import maskline_home
from pipeline.errors import TrackingError
from pipeline.results.marks import folder_digest

Version = dict[str, Any]


def _pages(search: Callable[..., Any], chosen: str | None) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(filter_string=chosen, max_results=100, page_token=token)
        yield from page
        token = page.token or None
        if token is None:
            return


@dataclass(frozen=True)
class Registry:
    """The models of one store; `client` is its MLflow client, `fetch(source, folder)` brings files to this machine."""

    client: Any
    fetch: Callable[[str, Path], Path]

    def versions(self, name: str = "") -> list[Version]:
        """Every version (of `name`): name, version, aliases, created (ms), run_id, source, digest, tags."""
        found = [
            {
                "name": model.name,
                "version": str(version.version),
                "aliases": sorted(
                    alias for alias, number in model.aliases.items() if str(number) == str(version.version)
                ),
                "created": int(version.creation_timestamp),
                "run_id": version.run_id or "",
                "source": version.source,
                "digest": version.tags.get("sha256", ""),
                "tags": dict(version.tags),
            }
            for model in _pages(self.client.search_registered_models, f"name = '{name}'" if name else None)
            for version in _pages(self.client.search_model_versions, f"name = '{model.name}'")
        ]
        return sorted(found, key=lambda v: (v["name"], int(v["version"])))

    def find(self, name: str, which: str) -> Version:
        """The version of `name` with the number or alias `which`; raises TrackingError when there is none."""
        versions = self.versions(name)
        for version in versions:
            if which == version["version"] or which in version["aliases"]:
                return version
        known = ", ".join(" ".join([v["version"], *(f"@{alias}" for alias in v["aliases"])]) for v in versions)
        wanted = f"one of: {known}" if known else "a registered model"
        raise TrackingError(f"model {name}", f"'{which}'", wanted, "see `maskline models list`")

    def create(
        self, model: Path, name: str, run_id: Callable[[], str], tags: Mapping[str, Any], alias: str | None
    ) -> str:
        """The version of `name` that holds exactly the files of the folder `model`, made where there is none.

        `run_id` says, when it is needed, which run the files are kept with.
        `alias` is set only while nobody holds it.
        """
        from filelock import FileLock

        home = maskline_home()
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "register.lock", timeout=300):
            return self._create(model, name, run_id, tags, alias)

    def _create(
        self, model: Path, name: str, run_id: Callable[[], str], tags: Mapping[str, Any], alias: str | None
    ) -> str:
        digest = folder_digest(model)
        same = [v["version"] for v in self.versions(name) if v["digest"] == digest]
        version = same[0] if same else self._add(model, name, run_id(), {**tags, "sha256": digest})
        if alias and alias not in self.client.get_registered_model(name).aliases:
            self.client.set_registered_model_alias(name, alias, version)
        return version

    def _add(self, model: Path, name: str, run_id: str, tags: Mapping[str, Any]) -> str:
        if not any(_pages(self.client.search_registered_models, f"name = '{name}'")):
            self.client.create_registered_model(name)
        self.client.log_artifacts(run_id, str(model), "model")
        source = f"{self.client.get_run(run_id).info.artifact_uri}/model"
        marks = {key: str(value) for key, value in tags.items()}
        return str(self.client.create_model_version(name, source=source, run_id=run_id, tags=marks).version)

    def folder(self, name: str, which: str) -> Path:
        """The local folder of a version; raises TrackingError when its files are not those that were registered."""
        version = self.find(name, which)
        where = f"model {name} version {version['version']}"
        folder = self.fetch(version["source"], maskline_home() / "models")
        if not folder.is_dir():
            raise TrackingError(where, f"no folder {folder}", "the registered files", "restore them or register again")
        if version["digest"] and folder_digest(folder) != version["digest"]:
            raise TrackingError(where, f"other files in {folder}", "those registered", "restore them or register again")
        return folder
