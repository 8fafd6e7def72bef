"""Reads the files of answers that the page of a study saves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from img2img.data.opening import open_file
from img2img.errors import RequestError
from img2img.names import printable
from img2img.picture import UnusableError
from img2img.study.sealing import unseal

FORMAT = "img2img-study-answers"
# A file of a thousand trials has some 200 kB.
LARGEST = 16 << 20


class _Finite(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(allow_inf_nan=False)


class Answer(_Finite):
    """What was said in one trial.

    Attributes:
        trial: its number from 0 on, of all trials.
        chosen: 0 where the first, left image was taken for the generated one, 1 for the second.
        shown_ms: for how long each of the two was on the screen.
        response_ms: from when the second was gone to the answer.
        by: `key`, `mouse`, `touch` or `pen`, as the browser calls it.
    """

    trial: int = Field(ge=0)
    chosen: Literal[0, 1]
    shown_ms: tuple[float, float]
    response_ms: float = Field(ge=0)
    by: str = ""


class Answers(_Finite):
    """One participant's file.

    Attributes:
        study: id of the study.
        key: its sealed key.
        participant: who; by the page's random id unless they typed another.
        trials: how many count.
        practice: how many come before these.
        seconds: for which an image is shown.
        about: what is said of the model.
        browser: as it names itself.
        answers: in the order they were given, those for practice among them.
    """

    format: Literal["img2img-study-answers"]
    version: Literal[1]
    study: str = Field(min_length=1, max_length=64)
    key: str
    participant: str = Field(min_length=1, max_length=200)
    trials: int = Field(ge=1, le=100_000)
    practice: int = Field(ge=0, le=100_000)
    seconds: float = Field(gt=0)
    about: dict[str, Any] = Field(default_factory=dict)
    browser: str = ""
    answers: list[Answer]

    def counted(self) -> list[Answer]:
        """Without those for practice."""
        return [answer for answer in self.answers if answer.trial >= self.practice]

    def fooled(self) -> list[bool]:
        """For each that counts, whether the real image was taken for the generated one."""
        key = unseal(self.key, self.study, "trials")
        return [answer.chosen != key[answer.trial - self.practice] for answer in self.counted()]


def read_answers(path: Path) -> Answers:
    """One file of answers.

    Raises:
        RequestError: it cannot be read, or is damaged, or something else.
    """
    try:
        with open_file(path) as file:
            text = file.read(LARGEST + 1)
    except UnusableError as error:
        raise RequestError(f"{path} {error}") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(text) > LARGEST:
        raise RequestError(f"{path} is too large for a file of answers")
    try:
        # First by itself: what is no JSON is told apart from JSON of something else.
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{path} is damaged or no JSON; ask the participant for the file that the page saved"
        ) from error
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise RequestError(f"{path} is JSON, but not the answers to a study")
    if held.get("version") != 1:
        raise RequestError(f"{path} was saved by another version of the page; update img2img")
    try:
        # Written anew: what somebody pasted into a file of their own may begin with a byte order
        # mark or be UTF-16, which the one reader knows and the other does not.
        answers = Answers.model_validate_json(json.dumps(held), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{path} is damaged: {where}: {printable(first['msg'])}") from error
    _check(answers, path)
    return answers


def _check(answers: Answers, path: Path) -> None:
    numbers = [answer.trial for answer in answers.answers]
    try:
        count = len(unseal(answers.key, answers.study, "trials"))
    except ValueError:
        count = -1
    if count != answers.trials:
        raise RequestError(f"{path} is damaged: its key is not that of {answers.trials} trials")
    if len(set(numbers)) != len(numbers):
        raise RequestError(f"{path} is damaged: it answers a trial twice")
    if any(number >= answers.practice + answers.trials for number in numbers):
        raise RequestError(f"{path} is damaged: it answers trials that the study does not have")


def _of_one_person(first: Path, second: Path, answers: Answers, read: Sequence[Answers]) -> str:
    told = f"{first} and {second} are both of the participant {printable(answers.participant)!r}"
    same = [one.answers for one in read if one.participant == answers.participant]
    if same[0] == same[1]:
        return f"{told} and hold the same answers: leave one out"
    return (
        f"{told}, and each counts once: leave one out; or, where two people gave one name, change "
        f"it in one of the files"
    )


def read_all(paths: Sequence[Path]) -> list[Answers]:
    """The answers of several participants in one study.

    Raises:
        RequestError: one cannot be read, they are of several studies, or two of one participant.
    """
    read = [read_answers(path) for path in paths]
    studies: dict[str, list[str]] = {}
    people: dict[str, Path] = {}
    for path, answers in zip(paths, read, strict=True):
        studies.setdefault(answers.study, []).append(str(path))
        if answers.participant in people:
            raise RequestError(_of_one_person(people[answers.participant], path, answers, read))
        people[answers.participant] = path
    if len(studies) > 1:
        listed = "".join(
            f"\n  {printable(study)}: {', '.join(files)}" for study, files in studies.items()
        )
        raise RequestError(f"these are answers to different studies; score each alone{listed}")
    if any(
        (one.key, one.trials, one.practice) != (read[0].key, read[0].trials, read[0].practice)
        for one in read
    ):
        raise RequestError(
            "these files name one study and do not agree on its trials: one was changed"
        )
    return read
