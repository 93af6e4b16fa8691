"""What every config is made of, and how one is read.

Config files are YAML; `load_config` reads one, applies `--set key=value`, or raises a `ConfigError` naming the field.
"""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _of_the_usual_kind(cls, tree: Any) -> Any:
        """A section that does not say its `kind` is of the kind it has where it is left out altogether."""
        if not isinstance(tree, dict):
            return tree
        said = dict(tree)
        for name, field in cls.model_fields.items():
            kind = getattr(field.default, "kind", None)
            if kind is not None and isinstance(tree.get(name), dict):
                said[name] = {"kind": kind, **tree[name]}
        return said


C = TypeVar("C", bound=Strict)


def _override(tree: dict[str, Any], assignment: str) -> None:
    key, found, value = assignment.partition("=")
    if not found:
        raise ConfigError(f"--set {assignment}", "no '='", "key=value", "write for example --set optimiser.lr=0.001")
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(
                f"--set {assignment}", f"{parent}, which is a value", "a section", "check the spelling of the key"
            )
    tree[last] = yaml.safe_load(value)


def build_config(kind: type[C], tree: dict[str, Any], where: str) -> C:
    """Validate `tree` as `kind`; raises ConfigError naming every wrong field of `where`."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors())
        raise ConfigError(where, wrong, f"a valid {kind.__name__}", "correct the fields named") from None


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping that a YAML config holds, not yet validated."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(str(path), str(error), "a readable YAML file", "check the path and the indentation") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            str(path), type(tree).__name__, "a mapping of keys to values", "see the configs that ship in configs/"
        )
    return tree


def load_config(kind: type[C], path: Path, overrides: tuple[str, ...] = ()) -> C:
    """Read a YAML config of `kind`, with `key.sub=value` overrides applied on top."""
    tree = read_tree(path)
    for assignment in overrides:
        _override(tree, assignment)
    return build_config(kind, tree, str(path))
