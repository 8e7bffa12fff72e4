"""A customer of a group is shown and charged the prices of the group; a plan pays before the balance."""

from __future__ import annotations

from functools import partial

from minitoolai.billing.selling import plans
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.clock import SystemClock
from minitoolai.core.plans import Windows
from minitoolai.storage.selling import purses
from minitoolai.storage.tables import accounts
from tests.support.ask import check_refusal, get, post
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

CLOCK = SystemClock()


def id_of(server: ServerProcess, account: Account) -> int:
    key = account.headers["authorization"].split("-")[2]
    found = server.read(lambda c: accounts.find_key(c, key))
    assert found is not None
    return found.account_id


def join(server: ServerProcess, account: Account, group: str | None) -> None:
    number = id_of(server, account)
    server.write(lambda c: accounts.set_price_group(c, number, group))


def prices_of(account: Account, model: str) -> dict[str, str]:
    found: dict[str, str] = get(account, f"/v1/models/{model}").json()["price"]
    return found


def test_a_group_changes_prices_and_charges_within_a_second(server: ServerProcess) -> None:
    account = server.account()
    assert prices_of(account, "quick")["input_per_million"] == "0.150000000"
    join(server, account, "partner")
    eventually(lambda: prices_of(account, "quick")["input_per_million"] == "0.135000000")
    assert prices_of(account, "exact") == {
        "input_per_million": "0.500000000", "output_per_million": "500.000000000", "currency": "USD",
    }  # fmt: skip
    listed = {one["id"]: one["price"] for one in get(account, "/v1/models").json()["data"]}
    assert listed["quick"]["output_per_million"] == "0.540000000"
    before = account.settled()
    answer = post(account, model="quick")
    name = answer.headers["x-generation-id"]
    assert before - account.settled() == 6 * 135 + 16 * 540
    shown = get(account, f"/v1/generations/{name}").json()
    assert (shown["price_input_per_unit"], shown["cost"]) == ("0.000000135", f"{(6 * 135 + 16 * 540) / 1e9:.9f}")


def test_others_and_accounts_of_a_group_that_is_gone_pay_the_list_prices(server: ServerProcess) -> None:
    account = server.account()
    join(server, account, "gone")
    assert prices_of(account, "quick")["input_per_million"] == "0.150000000"
    before = account.settled()
    post(account, model="quick")
    assert before - account.settled() == 6 * 150 + 16 * 600


def start(server: ServerProcess, account: Account, plan: Plan) -> int:
    number = id_of(server, account)
    buy = partial(
        plans.buy, clock=CLOCK, account_id=number, plan=plan, expected_price=plan.price, reference=f"plan:{number}"
    )
    bought = server.write(buy)
    assert isinstance(bought, purses.Purse)
    return bought.id


def test_a_plan_pays_first_then_the_balance_and_a_refusal_names_the_window(server: ServerProcess) -> None:
    cost = 6 * 150 + 16 * 600
    account = server.account(f"{(1_000_000 + cost) / 1e9:.9f}")
    plan = Plan("pro", "Pro", 1_000_000, 50_000_000, "month", Windows(five_hours=cost))
    purse = start(server, account, plan)
    page = get(account, "/api/balance/").json()
    assert page["available"] == f"{cost / 1e9:.9f}"
    assert page["plan"]["available"] == f"{cost / 1e9:.9f}"
    assert page["plan"]["windows"][0]["window"] == "5h"
    assert post(account, max_completion_tokens=16).status_code == 200
    eventually(lambda: server.read(lambda c: accounts.balance_of(c, purse)).held == 0)
    assert server.read(lambda c: accounts.balance_of(c, purse)).posted == 50_000_000 - cost
    assert account.money().posted == cost
    assert post(account, max_completion_tokens=16).status_code == 200
    assert account.settled() == 0
    message = check_refusal(post(account, max_completion_tokens=16), 402, "insufficient_balance")
    assert "The plan's credit for these five hours is used up until " in message


def test_usage_counts_what_a_plan_paid(server: ServerProcess) -> None:
    account = server.account("1.00")
    start(server, account, Plan("pro", "Pro", 5, 10**9, "week", Windows()))
    post(account)
    account.settled()
    rows = get(account, "/api/usage/").json()["data"]
    assert [(row["requests"], row["cost"]) for row in rows] == [(1, f"{(6 * 150 + 16 * 600) / 1e9:.9f}")]


def test_ten_images_need_a_wallet_for_each(server: ServerProcess) -> None:
    account = server.account("0.000000009")
    start(server, account, Plan("pro", "Pro", 0, 5, "month", Windows()))
    page = get(account, "/api/balance/").json()
    assert (page["available"], page["plan"]["available"]) == ("0.000000009", "0.000000005")
