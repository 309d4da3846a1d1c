"""What schemathesis is to leave out. It loads this file by its configuration."""

from typing import Any

import schemathesis
from schemathesis import GenerationMode

__all__ = ["filter_case"]


@schemathesis.hook
def filter_case(_: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> bool:
    """Leave out forms that break the schema: a field of a form is text, whatever type it stands for, and so is accepted."""
    is_negative = case.meta is not None and case.meta.generation.mode is GenerationMode.NEGATIVE
    return not (is_negative and case.media_type == "multipart/form-data")
