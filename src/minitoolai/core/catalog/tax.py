"""Tax on top-ups: the table `[tax]` of the catalog, validated, and the tax that an amount contains.

Amounts that customers pay contain the tax, so that an invoice has the total that the ledger has.
"""

from __future__ import annotations

import re

import msgspec

#: Member states of the EU, in which reverse charge applies between businesses (EL is Greece in tax numbers).
EU = frozenset(
    ("AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV")
    + ("MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK")
)
NANO_PER_CENT = 10_000_000


class TaxEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tax in the file. Prices and top-ups contain it."""

    #: name of the tax, as invoices show it.
    name: str = "VAT"
    #: percent by the buyer's country, in quotes, like { DE = "19", FR = "20" }.
    rates: dict[str, str] = {}
    #: percent in all other countries, in quotes.
    default: str = "0"
    #: no tax for businesses with a tax number in another member state of the EU, which owe it themselves.
    reverse_charge: bool = False


class TaxRule(msgspec.Struct, frozen=True):
    """The tax of one invoice. `rate` is in hundredths of a percent."""

    name: str
    rate: int
    is_reverse_charge: bool = False

    def contained(self, total: int) -> int:
        """Return the tax that a total in nano-dollars contains, rounded half up to the cent."""
        cents, whole = total // NANO_PER_CENT, 10_000 + self.rate
        return (2 * cents * self.rate + whole) // (2 * whole) * NANO_PER_CENT


class Tax(msgspec.Struct, frozen=True):
    """Tax, validated: rates in hundredths of a percent by country."""

    name: str = "VAT"
    rates: dict[str, int] = {}
    default: int = 0
    reverse_charge: bool = False

    def rule(self, seller: str, buyer: str, tax_number: str) -> TaxRule:
        """Return the tax between two countries. A buyer without an address is taxed like one in the seller's."""
        is_business_abroad = bool(tax_number) and buyer != seller and {buyer, seller} <= EU
        if self.reverse_charge and is_business_abroad:
            return TaxRule(self.name, 0, True)
        return TaxRule(self.name, self.rates.get(buyer or seller, self.default))


class InvalidTax(ValueError):
    """A key of `[tax]` is wrong: its name, and what to write instead."""

    def __init__(self, key: str, remedy: str) -> None:
        super().__init__(f"{key}: {remedy}")
        self.key, self.remedy = key, remedy


def read_tax(entry: TaxEntry, seller: str) -> Tax:
    """Return the tax of an entry, for a seller in this country. Raise InvalidTax."""
    if not entry.name.strip() or not entry.name.isprintable() or len(entry.name) > 20:
        raise InvalidTax("name", 'the name of the tax is one short word, like "VAT"')
    for country in entry.rates:
        if not re.fullmatch("[A-Z]{2}", country):
            raise InvalidTax("rates", f'{country!r} is not a country; write its two capital letters, like DE = "19"')
    rates = {country: _hundredths("rates", rate) for country, rate in entry.rates.items()}
    default = _hundredths("default", entry.default)
    if entry.reverse_charge and seller not in EU:
        raise InvalidTax("reverse_charge", "it needs country of [shop], a member state of the EU")
    if (any(rates.values()) or default) and not seller:
        raise InvalidTax("rates", "an invoice with tax names its seller: set company, address and country in [shop]")
    return Tax(entry.name, rates, default, entry.reverse_charge)


def _hundredths(key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,2})?", text):
        raise InvalidTax(key, f'{text!r} is not a rate; write percent with at most two decimals, like "19" or "7.7"')
    whole, _, fraction = text.partition(".")
    return int(whole) * 100 + int(fraction.ljust(2, "0"))
