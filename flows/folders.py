"""What a deployment may be given: whole paths only, since the worker's current folder is nobody's choice."""

from pathlib import Path

from pipeline.errors import UsageError


def absolute(name: str, path: Path) -> Path:
    """`path` as it is; raises UsageError for a relative one.

    >>> absolute("folder", Path("/data/plate7")).as_posix()
    '/data/plate7'
    """
    path = path.expanduser()
    if not path.is_absolute():
        raise UsageError(
            f"parameter {name}",
            f"the relative path {path}",
            "a whole path",
            f"write it from the root, like {path.absolute()}",
        )
    return path
