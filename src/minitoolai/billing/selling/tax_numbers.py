"""Check tax numbers of customers: their form and, where a country has one, their check digit.

Whether a number was issued, only the tax office of its country knows; in the EU, VIES does.
"""

from __future__ import annotations

from typing import Literal

from minitoolai.core.catalog.tax import EU

LONGEST = 30
Fault = Literal["length", "format", "check_digit"]


class InvalidTaxNumber(ValueError):
    """A tax number that no tax office can have issued."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault: Fault = fault


def normalize_tax_number(country: str, text: str) -> str:
    """Return a tax number as its country writes it, "" for none. Raise InvalidTaxNumber.

    Countries without known rules accept any short text.
    """
    if not text.strip():
        return ""
    if len(text) > LONGEST or not text.isprintable():
        raise InvalidTaxNumber("length")
    # Imported here: `serve` does not need it, and it reads tables of all countries.
    from stdnum import exceptions, get_cc_module
    from stdnum.eu import vat

    prefix = "EL" if country == "GR" else country
    number = text.strip().upper()
    try:
        if country in EU:
            return str(vat.validate(number if number.startswith(prefix) else prefix + number))
        module = get_cc_module(country.lower(), "vat")
        return str(module.validate(number)) if module is not None else text.strip()
    except exceptions.InvalidLength:
        raise InvalidTaxNumber("length") from None
    except exceptions.InvalidChecksum:
        raise InvalidTaxNumber("check_digit") from None
    except exceptions.ValidationError:
        raise InvalidTaxNumber("format") from None
