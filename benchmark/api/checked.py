"""Arguments of the public functions, checked against their annotations before anything runs."""

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from pydantic import ConfigDict, ValidationError, validate_call

from benchmark.errors import UserError
from benchmark.matrix.source import shown

Function = TypeVar("Function", bound=Callable)


def checked(function: Function) -> Function:
    """The function, with UserError for a missing or unknown argument and for one of another type or word."""
    validated = validate_call(config=ConfigDict(arbitrary_types_allowed=True, strict=True))(function)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise UserError(f"{function.__name__}: {error}") from None
        given = {name: int(value) if isinstance(value, np.integer) else value for name, value in given.items()}
        try:
            return validated(**given)
        except ValidationError as error:
            wrong = error.errors()
            name = str(wrong[0]["loc"][0])
            allowed = dict.fromkeys(item["msg"].replace("Input should", "it should") for item in wrong)
            raise UserError(f"{name} is {shown(given[name])}: {', or '.join(allowed)}") from None

    return call  # pyright: ignore[reportReturnType]
