"""Tables of requests: Idempotency-Key, stored responses, request bodies and log exports."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

from minitoolai.storage.schema.base import Int64, metadata, one_of, partial_index

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # Account and Idempotency-Key together.
    Column("id", Text, primary_key=True),
    # The first hold placed under the key, and a hash of its request.
    Column("hold_id", Int64, ForeignKey("holds.id"), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("created_ms", Int64, nullable=False),
    # The complete response: status, headers as JSON, and the body, compressed with deflate.
    Column("status", Integer),
    Column("headers", Text),
    Column("body", LargeBinary),
    Index("ix_idempotency_keys_created_ms", "created_ms"),
    # Each archived hold is looked for here before it is deleted, as the foreign key demands.
    Index("ix_idempotency_keys_hold_id", "hold_id"),
    sqlite_strict=True,
)

#: Stored responses of `/v1/responses`. Each has the ID of its generation. No foreign key refers to that one, because a
#: queued response is written before its hold.
responses = Table(
    "responses",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    # The response that this one continues. Its items are not stored again.
    Column("previous_id", Int64),
    Column("model", Text, nullable=False),
    Column("is_background", Integer, nullable=False),
    # A background response in progress, or one that has just ended: it is not deleted yet.
    Column("is_open", Integer, nullable=False),
    Column("cancelled_ms", Int64),
    Column("created_ms", Int64, nullable=False),
    Column("expires_ms", Int64, nullable=False),
    # Bytes of the two objects below as JSON.
    Column("request_bytes", Int64, nullable=False),
    Column("response_bytes", Int64, nullable=False),
    # Compressed, and encrypted under a key derived from the server's secret.
    Column("request", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    CheckConstraint("is_background IN (0, 1)", name="is_background_is_a_flag"),
    CheckConstraint("is_open IN (0, 1)", name="is_open_is_a_flag"),
    Index("ix_responses_account", "account_id", "id"),
    Index("ix_responses_expires_ms", "expires_ms"),
    partial_index("ix_responses_open", "id", where="is_open = 1"),
    sqlite_strict=True,
)

#: Bytes of the stored responses of each account, for its limit.
response_totals = Table(
    "response_totals",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("bytes", Int64, nullable=False),
    sqlite_strict=True,
)

#: Accounts that have requests and responses stored, with the encrypted key that encrypts them.
body_settings = Table(
    "body_settings",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    # 0: turned off. The row stays until the bodies are deleted.
    Column("days", Integer, nullable=False),
    Column("wrapped_key", LargeBinary),
    Column("changed_ms", Int64, nullable=False),
    CheckConstraint("days >= 0 AND days <= 30", name="days_limited"),
    CheckConstraint("(days > 0) = (wrapped_key IS NOT NULL)", name="key_while_on"),
    partial_index("ix_body_settings_off", "account_id", where="wrapped_key IS NULL"),
    sqlite_strict=True,
)

#: Requests and responses of generations (same ID), encrypted under the key of the account.
request_bodies = Table(
    "request_bodies",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("request", LargeBinary),
    Column("response", LargeBinary),
    # Before they were cut.
    Column("request_bytes", Int64, nullable=False),
    Column("response_bytes", Int64, nullable=False),
    Column("expires_ms", Int64, nullable=False, index=True),
    Index("ix_request_bodies_account", "account_id", "id"),
    sqlite_strict=True,
)

#: Accounts that have the request log of each day sent to a bucket or a webhook.
log_exports = Table(
    "log_exports",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("format", Text, nullable=False),
    # A URL, or a bucket as JSON.
    Column("target", Text, nullable=False),
    # The secret access key of the bucket, encrypted under a key derived from the server's secret.
    Column("secret", LargeBinary),
    # Number of the day that is sent next, and when.
    Column("next_day", Int64, nullable=False),
    Column("next_ms", Int64, nullable=False, index=True),
    Column("failures", Int64, nullable=False),
    Column("error", Text),
    Column("done_day", Int64),
    Column("done_ms", Int64),
    Column("changed_ms", Int64, nullable=False),
    one_of("kind", "s3", "webhook"),
    one_of("format", "csv", "jsonl"),
    sqlite_strict=True,
)
