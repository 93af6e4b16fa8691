"""Every error maskline raises on purpose.

    MasklineError               exit 1
    ├── UsageError              exit 2: wrong command line
    │   └── ConfigError         a config that does not validate
    ├── InputError              something that was given cannot be used
    │   ├── ImageError          unreadable, truncated, unsupported or too large
    │   │   └── LargeError      too large to be held once it is magnified: it can be streamed
    │   ├── MaskError           a mask that does not fit its image or is no mask
    │   ├── EmptyError          a folder without a single image
    │   ├── LayoutError         a folder whose layout is not recognised
    │   └── ManifestError       a manifest that cannot be read or does not match its files
    ├── ModelError              a model that is missing, damaged or does not fit
    ├── TrainingError           a training that cannot start, go on or be resumed
    ├── OutputError             an output folder that cannot be written or trusted
    │   └── LockedError         another run holds the folder
    └── TrackingError           MLflow cannot be reached or refuses

An error says where it happened, what came, what was wanted and what to do about it:

>>> print(MaskError("case 07, mask 3", "shape (512, 512)", "its image's (512, 640)", "re-export the mask"))
case 07, mask 3: got shape (512, 512), wanted its image's (512, 640); re-export the mask
"""

from typing import ClassVar


class MasklineError(Exception):
    """Base of the tree; `hint` is what the user can do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, where: str, came: str, wanted: str, hint: str) -> None:
        super().__init__(where, came, wanted, hint)
        self.where, self.came, self.wanted, self.hint = where, came, wanted, hint

    @property
    def message(self) -> str:
        """The error without the hint, for tables that keep the hint in a column of its own."""
        return f"{self.where}: got {self.came}, wanted {self.wanted}"

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


class UsageError(MasklineError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class InputError(MasklineError):
    pass


class ImageError(InputError):
    pass


class LargeError(ImageError):
    pass


class MaskError(InputError):
    pass


class EmptyError(InputError):
    pass


class LayoutError(InputError):
    pass


class ManifestError(InputError):
    pass


class ModelError(MasklineError):
    pass


class TrainingError(MasklineError):
    pass


class OutputError(MasklineError):
    pass


class LockedError(OutputError):
    pass


class TrackingError(MasklineError):
    pass
