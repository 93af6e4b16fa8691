"""What goes wrong with one image, in the words of images.csv; and what is no one image's fault."""

from pathlib import Path

from pipeline.errors import MasklineError, OutputError
from pipeline.results.lock import is_output_trouble, output_error
from pipeline.types import Case


def let_pass(error: Exception, stage: str, out: Path) -> None:
    """Raise what is no one image's fault; return for what is."""
    if stage == "load":
        raise error
    reason = error.__cause__ if isinstance(error, OutputError) else error
    if stage in ("write", "picture") and isinstance(reason, OSError) and is_output_trouble(reason):
        raise output_error(out, reason) from error


def explain(error: Exception, case: Case) -> tuple[str, str]:
    """What images.csv says of a failure, wherever the folder lies, and what to do about it."""
    if isinstance(error, MasklineError):
        return error.message.replace(str(case.image), case.relative), error.hint
    text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".replace(str(case.image), case.relative)
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return text, "free memory, segment on a larger machine, or cut the image into parts"
    if isinstance(error, OSError):
        return text, "check that the file is there and may be read, then run again"
    return text, "look into maskline.log; if the file opens elsewhere, report this with the file"
