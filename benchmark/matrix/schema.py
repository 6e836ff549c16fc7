"""The typed form of a matrix file: what is in it beside the settings of a cell (config.py)."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from benchmark.config import (
    CEM,
    Bounds,
    Data,
    Efficiency,
    Fraction,
    Kinds,
    Knowledge,
    Model,
    Number,
    Quirks,
    Split,
    Strict,
    Train,
)


class Range(Strict):
    """Where a strength is searched."""

    low: Number = Field(description="smallest value")
    high: Number = Field(description="largest value")
    scale: Literal["log", "linear"] = Field("log", description="how the values between are spread")

    @model_validator(mode="after")
    def _ordered(self):
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError("low must be below high, and above 0 on the log scale")
        return self


class Calibration(Strict):
    """How the strengths of a row are searched (docs/CALIBRATION.md)."""

    candidates: Annotated[int, Field(ge=2)] = Field(description="settings tried on the first rung, anchor included")
    keep: Annotated[int, Field(ge=2)] = Field(description="one in so many goes on to the next rung")
    rungs: list[Annotated[Fraction, Field(gt=0)]] = Field(
        description="fractions of the epochs of the rungs; 1 is added"
    )
    seed: Annotated[int, Field(ge=0)] = Field(description="of the candidates drawn")
    ranges: dict[str, dict[str, Range]] = Field(description="defence -> its strength parameters -> where to search")


class Dataset(Strict):
    """A data set's own settings; `set` changes any default for its cells."""

    model: Model
    set: dict[str, object] = Field(default_factory=dict)


class Images(Strict):
    """What a suite's results need to be found and described where their data set is not prepared."""

    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = Field(
        description="sha256 of the pixels and labels, as `data prepare` writes it"
    )
    classes: Annotated[int, Field(ge=1)]
    train: Annotated[int, Field(ge=1)] = Field(description="number of training images")
    test: Annotated[int, Field(ge=1)] = Field(description="number of test images")


class Override(Strict):
    """Changes for the cells that match `where` (axis -> value or list of values).

    With the axis `split`, for the attacks with that split alone: `set` then takes attacks.* only.
    """

    where: dict[str, object]
    set: dict[str, object]


class Strengths(Override):
    """What `calibrate` found for a row, with how it was found (not read again)."""

    found: dict[str, object] = Field(default_factory=dict)


class StrengthsFile(Strict):
    """A file for `--set @FILE`."""

    strengths: list[Strengths]


class Suite(Strict):
    """A product of axes less the exclusions, with changes for all or some of its cells."""

    description: str = ""
    include: list[str] = Field(default_factory=list, description="suites whose cells this one holds as well")
    dataset: list[str] = Field(default_factory=list)
    defense: list[str] = Field(default_factory=list)
    cem: list[str] = Field(default_factory=list)
    attacker: list[str] = Field(default_factory=list)
    split: list[Split] = Field(default_factory=list)
    protocol: list[str] = Field(default_factory=list)
    seed: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    efficiency: list[str] = Field(default_factory=list, description="data sets for the rows of Table S6")
    bounds: bool = Field(default=False, description="whether every trained cell gets a `bounds` job")
    exclude: list[dict[str, object]] = Field(default_factory=list)
    set: dict[str, object] = Field(default_factory=dict)
    sweep: dict[str, list[object]] = Field(
        default_factory=dict,
        description="path -> values, one path after the other: the suite's cells at each value, for `frontier`. A path "
        "of one defence is for its rows alone",
    )
    overrides: list[Override] = Field(default_factory=list)
    images: dict[str, Images] = Field(
        default_factory=dict,
        description="data set -> the images that the results which come with the project are of; used where that data "
        "set is not prepared",
    )

    def over(self, defaults: "Suite") -> "Suite":
        """The suite with the defaults for whatever it does not say."""
        missing = set(Suite.model_fields) - self.model_fields_set
        return self.model_copy(update={name: getattr(defaults, name) for name in missing})


class Matrix(Strict):
    """A matrix file. Whoever reads one puts it over what it extends first, and then nothing is left to extend."""

    extends: str | None = Field(
        None, description="another matrix: a path relative to this file, or the word paper for the shipped one"
    )
    datasets: dict[str, Dataset]
    data: Data
    train: Train
    defenses: dict[str, dict[str, object]] = Field(description="defence -> its parameters, as its file declares")
    cem: dict[str, CEM | None] = Field(description="name of a variant -> its settings; null is no CEM")
    attacks: dict[str, dict[str, object]] = Field(description="attacker -> its parameters, as its file declares")
    knowledge: Knowledge = Field(default_factory=lambda: Knowledge(), description="which images every attacker has")
    protocols: dict[str, Quirks]
    efficiency: Efficiency
    resources: Kinds
    bounds: Bounds
    calibration: Calibration
    suite_defaults: Suite = Field(default_factory=Suite, description="what a suite has that does not say otherwise")
    suites: dict[str, Suite]


def json_schema() -> dict:
    """The JSON Schema of a matrix file, for editors. Nothing is required: a file that extends another may leave out
    whatever that one has, and what the whole lacks is told when it is read."""
    return _without_required(Matrix.model_json_schema())


def _without_required(schema) -> Any:
    if isinstance(schema, list):
        return [_without_required(item) for item in schema]
    if isinstance(schema, dict):
        return {key: _without_required(value) for key, value in schema.items() if key != "required"}
    return schema
