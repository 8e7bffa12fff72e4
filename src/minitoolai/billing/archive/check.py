"""Check archived days: every file against its SHA-256, the chain of manifests, and all sums against the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from minitoolai.billing.archive.archiver import Access, ArchiveProgress
from minitoolai.core.clock import date_of
from minitoolai.core.errors import StoreError
from minitoolai.core.models import split_budget_ids
from minitoolai.core.threads import ARCHIVE
from minitoolai.storage.archive import files, rows
from minitoolai.storage.archive.files import ArchivedRow, Sums
from minitoolai.storage.object_store import ObjectStore
from minitoolai.storage.selling.purses import purse_budget


class ArchiveCheck:
    """Read all archived files, one at a time, and collect their faults in `faults`."""

    def __init__(
        self, access: Access, store: ObjectStore, on_progress: Callable[[ArchiveProgress], None] = lambda progress: None
    ) -> None:
        self._access = access
        self._store = store
        self._on_progress = on_progress
        self.faults: list[str] = []
        self._balances: Counter[int] = Counter()
        self._budgets: Counter[str] = Counter()

    async def run(self) -> int:
        """Check all days and return how many there are."""
        days = await self._access.read(rows.archived_days)
        previous = ""
        for done, day in enumerate(days, 1):
            await self._check_day(day, previous)
            previous = day.manifest
            self._on_progress(ArchiveProgress("verify", day.day, done, len(days)))
        if all(day.removed_ms is not None for day in days):
            await self._check_openings()
        return len(days)

    async def _check_day(self, day: rows.ArchivedDay, previous: str) -> None:
        name = date_of(day.day)
        try:
            data = await self._store.get_file(files.manifest_path(day.day, day.manifest))
            if files.sha256(data) != day.manifest:
                self.faults.append(f"{name}: the manifest was changed or damaged")
                return
            manifest = files.decode_manifest(data)
        except StoreError as error:
            self.faults.append(f"{name}: {error}")
            return
        listed = await self._access.read(rows.parts_of, day.day)
        if (manifest.day, manifest.previous) != (name, previous):
            self.faults.append(f"{name}: the manifest does not continue that of the day before")
        if (manifest.sums, manifest.parts) != (day.sums, listed):
            self.faults.append(f"{name}: the manifest differs from archived_days and archived_parts in the database")
        sums = Sums()
        for entry in manifest.parts:
            sums += await self._check_part(day.day, entry)
        if sums != manifest.sums and not self.faults:
            self.faults.append(f"{name}: the sums of the files differ from the manifest")

    async def _check_part(self, day: int, entry: files.PartEntry) -> Sums:
        path = files.part_path(day, entry.part, entry.sha256)
        try:
            part = await ARCHIVE.run(files.Part, path, await self._store.get_file(path), entry.sha256)
        except StoreError as error:
            self.faults.append(f"{date_of(day)}: {error}")
            return Sums()
        found = await ARCHIVE.run(part.rows)
        self.faults += [f"{path}: generation {number}: {fault}" for number, fault in map(_fault, found) if fault]
        for row in found:
            if row.transfer is not None:
                self._balances[row.transfer["debit"]] -= row.transfer["amount"]
                self._balances[row.transfer["credit"]] += row.transfer["amount"]
                if row.transfer["debit"] != row.hold["account_id"]:
                    self._budgets[purse_budget(row.transfer["debit"])] += row.transfer["amount"]
            for budget_id in split_budget_ids(row.hold["budget_id"]):
                self._budgets[budget_id] += row.hold["settled"]
        return files.sums_of(found)

    async def _check_openings(self) -> None:
        """Compare the sums of all files with the opening balances, which the audit relies on."""
        balances, budgets = await self._access.read(rows.openings)
        for name, kept, read in (
            ("opening balance of account", balances, self._balances),
            ("archived spending of budget", budgets, self._budgets),
        ):
            for key in sorted(kept.keys() | read.keys()):
                if kept.get(key, 0) != read[key]:
                    self.faults.append(f"{name} {key}: {kept.get(key, 0)} in the database, {read[key]} in the files")


def _fault(row: ArchivedRow) -> tuple[int, str]:
    """Return the ID of a generation and the fault in its rows, as the audit would report it, or ""."""
    g, h, t = row.generation, row.hold, row.transfer
    if g["id"] != h["id"] or (t is not None and t["hold_id"] != g["id"]):
        return g["id"], "its hold or transfer belongs to another one"
    if (h["state"] == "posted") != (t is not None) or (t is not None and t["amount"] != h["settled"]):
        return g["id"], "its hold and its transfer differ"
    if g["cost"] != h["settled"] + h["shortfall"]:
        return g["id"], "its cost differs from what was settled"
    return g["id"], ""
