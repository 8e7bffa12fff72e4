"""Instructor, with OpenAI's client."""

from typing import Any

import instructor
import openai
import pydantic
from speaking import BASE_URL, KEY, QUESTION, main, refusals


class Moons(pydantic.BaseModel):
    """What a structured answer is read into."""

    planet: str


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: str


def client(key: str = KEY, mode: instructor.Mode = instructor.Mode.JSON_SCHEMA, retries: int = 0) -> Any:
    return instructor.from_openai(openai.OpenAI(base_url=BASE_URL, api_key=key, max_retries=retries), mode=mode)


def ask(key: str = KEY, model: str = "quick", retries: int = 0, messages: Any = QUESTION, **fields: Any) -> Any:
    return client(key, retries=retries).create(
        model=model, messages=messages, response_model=Moons, max_retries=0, **fields
    )


def schema() -> Any:
    return ask().model_dump()


def tools() -> Any:
    made = client(mode=instructor.Mode.TOOLS).create(model="quick", messages=QUESTION, response_model=Weather)
    plain = client().create(model="quick", messages=QUESTION, response_model=None)
    return {"name": "get_weather", "arguments": made.model_dump(), "text": plain.choices[0].message.content}


def errors() -> Any:
    def failing(**case: Any) -> None:
        try:
            ask(**case)
        except Exception as error:  # noqa: BLE001 - raised again, or its cause
            # Its own exception wraps OpenAI's, several layers deep.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, openai.APIError):
                cause = cause.__cause__ or cause.__context__
            raise cause or error from None

    return refusals(failing)


main({name: globals()[name] for name in ("tools", "schema", "errors")})
