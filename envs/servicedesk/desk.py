"""The desk's database and the tools that work on it: SQLite in memory, one per episode."""

from __future__ import annotations

import sqlite3
from typing import Annotated, Any, Literal

from pydantic import Field

from ..tools import ToolError

SCHEMA = """
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT, email TEXT UNIQUE, tier TEXT);
CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT, item TEXT, price REAL, days INTEGER, payment TEXT,
                     final_sale INTEGER, address TEXT, status TEXT, refund TEXT);
CREATE TABLE bookings (id TEXT PRIMARY KEY, customer TEXT, place TEXT, price REAL, days_left INTEGER, fare TEXT,
                       insured INTEGER, status TEXT, refund_percent INTEGER, fee INTEGER);
CREATE TABLE decisions (subject TEXT PRIMARY KEY, kind TEXT);
"""
TABLES = ("customers", "orders", "bookings", "decisions")
OrderId = Annotated[str, Field(description="such as O12345")]
BookingId = Annotated[str, Field(description="such as B12345")]


class Desk:
    """A database and the functions that agents call. They refuse the impossible and know of no policy."""

    def __init__(self, rows: dict[str, list[tuple[Any, ...]]]) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.executescript(SCHEMA)
        for table, values in rows.items():
            if values:
                marks = ", ".join("?" * len(values[0]))
                self.db.executemany(f"INSERT INTO {table} VALUES ({marks})", values)

    def close(self) -> None:
        """Forget everything."""
        self.db.close()

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, in one order: equal dumps are equal states."""
        return {table: [tuple(row) for row in self.db.execute(f"SELECT * FROM {table} ORDER BY 1")] for table in TABLES}

    def subject(self, id: str) -> tuple[Any, ...]:
        """What is on record of one order or booking."""
        found = [tuple(row) for row in self.db.execute("SELECT * FROM decisions WHERE subject = ?", (id,))]
        for table in ("orders", "bookings"):
            found += [tuple(row) for row in self.db.execute(f"SELECT * FROM {table} WHERE id = ?", (id,))]
        return tuple(found)

    def owner(self, id: str) -> str | None:
        """The customer whose order or booking this is."""
        for table in ("orders", "bookings"):
            for row in self.db.execute(f"SELECT customer FROM {table} WHERE id = ?", (id,)):
                return row[0]
        return None

    # ---- tools ----------------------------------------------------------------------------------

    def find_customer(self, email: str) -> dict[str, Any]:
        """Find a customer by e-mail address, with the numbers of their orders and bookings."""
        row = self.db.execute("SELECT * FROM customers WHERE lower(email) = lower(?)", (email.strip(),)).fetchone()
        if row is None:
            raise ToolError(f"No customer has the e-mail address {email}.")
        return dict(row) | {
            table: [
                r[0] for r in self.db.execute(f"SELECT id FROM {table} WHERE customer = ? ORDER BY 1", (row["id"],))
            ]
            for table in ("orders", "bookings")
        }

    def get_order(self, order_id: OrderId) -> dict[str, Any]:
        """Open an order."""
        row = self._row("orders", order_id)
        return row | {"final_sale": bool(row["final_sale"])}

    def get_booking(self, booking_id: BookingId) -> dict[str, Any]:
        """Open a hotel booking."""
        row = self._row("bookings", booking_id)
        return row | {"insured": bool(row["insured"])}

    def refund_order(self, order_id: OrderId, method: Literal["original", "store_credit"]) -> str:
        """Take back a delivered order and refund it."""
        self._update("orders", order_id, "delivered", status="returned", refund=method)
        return f"{order_id} is returned, refund: {method}."

    def replace_order(self, order_id: OrderId) -> str:
        """Send a delivered order again."""
        self._update("orders", order_id, "delivered", status="replaced")
        return f"{order_id} will be sent again."

    def cancel_order(self, order_id: OrderId, refund: Literal["original", "store_credit"]) -> str:
        """Cancel an order that is not sent yet and refund it."""
        self._update("orders", order_id, "processing", status="cancelled", refund=refund)
        return f"{order_id} is cancelled, refund: {refund}."

    def change_address(self, order_id: OrderId, address: str) -> str:
        """Send an order that is not sent yet to another address."""
        self._update("orders", order_id, "processing", address=address.strip(), status="readdressed")
        return f"{order_id} goes to {address.strip()}."

    def cancel_booking(self, booking_id: BookingId, refund_percent: Literal[0, 50, 100]) -> str:
        """Cancel a booking and refund a share of its price."""
        self._update("bookings", booking_id, "confirmed", status="cancelled", refund_percent=refund_percent)
        return f"{booking_id} is cancelled, {refund_percent} percent refunded."

    def move_booking(
        self, booking_id: BookingId, days_left: Annotated[int, Field(ge=1, le=365)], fee: Literal[0, 25]
    ) -> str:
        """Move a booking so that it starts in `days_left` days from now."""
        self._update("bookings", booking_id, "confirmed", status="moved", days_left=days_left, fee=fee)
        return f"{booking_id} starts in {days_left} days, fee: ${fee}."

    def decline(self, subject_id: str) -> str:
        """Record that the request about an order or booking is declined."""
        return self._decide(subject_id, "declined")

    def escalate(self, subject_id: str) -> str:
        """Hand the request about an order or booking over to a supervisor."""
        return self._decide(subject_id, "escalated")

    def _row(self, table: str, id: str) -> dict[str, Any]:
        row = self.db.execute(f"SELECT * FROM {table} WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise ToolError(f"There is no {table.removesuffix('s')} {id}.")
        return dict(row)

    def _update(self, table: str, id: str, needed: str, **values: Any) -> None:
        status = self._row(table, id)["status"]
        if status != needed:
            raise ToolError(f"Expected {id} to be {needed}, it is {status}.")
        self._not_decided(id)
        columns = ", ".join(f"{key} = ?" for key in values)
        self.db.execute(f"UPDATE {table} SET {columns} WHERE id = ?", (*values.values(), id))

    def _decide(self, id: str, kind: str) -> str:
        if self.owner(id) is None:
            raise ToolError(f"There is no order or booking {id}.")
        self._not_decided(id)
        self.db.execute("INSERT INTO decisions VALUES (?, ?)", (id, kind))
        return f"The request about {id} is {kind}."

    def _not_decided(self, id: str) -> None:
        row = self.db.execute("SELECT kind FROM decisions WHERE subject = ?", (id,)).fetchone()
        if row is not None:
            raise ToolError(f"The request about {id} is already {row[0]}.")


READS = ("find_customer", "get_order", "get_booking")
DECISIONS = (
    "refund_order", "replace_order", "cancel_order", "change_address", "cancel_booking", "move_booking", "decline",
    "escalate",
)  # fmt: skip
