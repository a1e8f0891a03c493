"""One-line errors: what pydantic refuses, in our words."""

import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from model.errors import first_problem


class Part(BaseModel):
    low: int = Field(default=1, gt=0)
    high: int = 2

    @model_validator(mode="after")
    def _in_order(self) -> "Part":
        if self.low > self.high:
            raise ValueError(f"low {self.low}: expected {self.high} at most")
        return self


class Whole(BaseModel):
    part: Part = Part()


@pytest.mark.parametrize(
    ("kind", "content", "problem"),
    [
        (Part, {"low": 0}, "low: expected greater than 0, found 0"),
        (Whole, {"part": {"low": 0}}, "part.low: expected greater than 0, found 0"),
        (Whole, {"part": {"low": 3}}, "part: low 3: expected 2 at most"),
        (Part, {"low": 3}, "low 3: expected 2 at most"),
    ],
)
def test_a_problem_is_told_without_pydantic_s_own_words(
    kind: type[BaseModel], content: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(content)
    assert first_problem(caught.value) == problem


def test_a_problem_of_no_field_is_the_whole_s() -> None:
    with pytest.raises(ValidationError) as caught:
        Part(low=3)
    assert first_problem(caught.value, whole="the file") == "the file: low 3: expected 2 at most"
